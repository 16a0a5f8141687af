//! The commands of the README, some of which are about such folders.

use crate::binary::Folder;
use crate::fixture;

/// Every line of the README's shell blocks that calls `lowbit`, in order, in one place with a model and a HuggingFace folder.
#[test]
fn the_commands_of_the_readme_run() {
    let folder = Folder::new();
    fixture::llama().write(&folder.path("llama-folder"));
    std::fs::copy(folder.path("llama-folder/model.safetensors"), folder.path("model.safetensors")).unwrap();
    let readme = include_str!("../../README.md");
    let mut blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines: Vec<&str> =
        blocks.by_ref().flat_map(str::lines).filter(|l| l.starts_with("lowbit ")).collect();
    assert!(lines.len() >= 6, "{lines:?}");
    for line in lines {
        let command = line.split(" # ").next().unwrap_or_default();
        let args: Vec<&str> = command.split_whitespace().skip(1).collect();
        let ran = folder.run(&args);
        assert_eq!(ran.code, Some(0), "{command}: {}{}", ran.stdout, ran.stderr);
        assert!(!ran.stdout.is_empty(), "{command}");
    }
}
