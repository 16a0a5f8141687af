//! The JavaScript side of a wasm module: `lowbit-wasm-bindgen MODULE.wasm FOLDER NAME` writes NAME.js and NAME_bg.wasm.
//!
//! What `cargo install wasm-bindgen-cli` would do, of the part that is used, in an eighth of the time.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, folder, name] = arguments.as_slice() else {
        eprintln!("usage: lowbit-wasm-bindgen MODULE.wasm FOLDER NAME");
        return ExitCode::FAILURE;
    };
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    let web = bindgen.input_path(module).out_name(name).typescript(false).web(true);
    // The module lies beside the script unless the page says otherwise.
    match web.and_then(|b| b.omit_default_module_path(false).generate(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lowbit-wasm-bindgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}
