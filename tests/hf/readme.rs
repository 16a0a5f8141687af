//! The commands of the README, some of which are about such folders.

use crate::binary::Folder;
use crate::fixture;

/// Every line of the README's shell blocks that calls `lowbit`, in order, in one place with a model, HuggingFace folders and a text.
#[test]
fn the_commands_of_the_readme_run() {
    let folder = Folder::new();
    fixture::llama().write(&folder.path("llama-folder"));
    fixture::bert().write(&folder.path("all-MiniLM-L6-v2"));
    folder.write("notes.txt", "The low.\n\nLowbit, the lows\n");
    std::fs::copy(folder.path("llama-folder/model.safetensors"), folder.path("model.safetensors")).unwrap();
    let readme = include_str!("../../README.md");
    let mut blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines: Vec<&str> =
        blocks.by_ref().flat_map(str::lines).filter(|l| l.starts_with("lowbit ")).collect();
    assert!(lines.len() >= 6, "{lines:?}");
    for line in lines {
        let command = line.split(" # ").next().unwrap_or_default();
        let args = words(command);
        let args: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
        let ran = folder.run(&args);
        assert_eq!(ran.code, Some(0), "{command}: {}{}", ran.stdout, ran.stderr);
        assert!(!ran.stdout.is_empty(), "{command}");
    }
}

/// The words of a command, as a shell cuts it: quotes hold spaces.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (i, part) in command.split('"').enumerate() {
        match i % 2 {
            0 => words.extend(part.split_whitespace().map(String::from)),
            _ => words.push(part.into()),
        }
    }
    words
}
