//! `lowbit demo`, on the CPU and on every device.

use crate::harness::*;
use serde_json::{Value, json};

/// What the demo says of one device or of several.
fn check_demo(result: &Value) {
    let devices = result["devices"].as_array().unwrap().len();
    let schemes = result["schemes"].as_array().unwrap();
    assert!(schemes.len() >= 12);
    assert_eq!(result["digits"], 360);
    assert_eq!(result["checks"]["products"], json!(3 * schemes.len() * devices));
    assert_eq!(result["checks"]["failures"], json!([]));
    let worst = result["checks"]["worst_part_of_bound"].as_f64().unwrap();
    assert!(worst > 0.0 && worst <= 1.0, "{worst}");
    for s in schemes {
        assert_eq!(s["milliseconds"].as_array().unwrap().len(), devices);
        assert!(
            s["milliseconds"].as_array().unwrap().iter().all(|t| t.as_f64().is_some_and(|t| t > 0.0)),
            "{s}"
        );
    }
    let of = |name: &str, field: &str| {
        let found = schemes.iter().find(|s| s["scheme"] == name);
        found.and_then(|s| s[field].as_f64()).unwrap_or_else(|| panic!("{name} {field}"))
    };
    // data/digits/README.md: 353 of 360 in f32.
    assert_eq!(((of("f32", "accuracy") * 360.0).round(), of("f32", "disagreement")), (353.0, 0.0));
    assert!(of("q8_0", "accuracy") > 0.97 && of("q4_k", "accuracy") > 0.95);
    assert!(of("int1-g32", "accuracy") > 0.5, "one bit still beats guessing");
    assert!(of("q8_0", "sqnr_db") > 40.0 && of("q4_k", "sqnr_db") < of("q6_k", "sqnr_db"));
    assert!(of("q8_0", "bytes") < of("f16", "bytes"));
}

#[test]
fn the_demo_runs_on_the_cpu() {
    let folder = Folder::new();
    let result = folder.run(&["demo", "--device", "cpu", "--json"]).json();
    assert_eq!(result["devices"].as_array().unwrap().len(), 1);
    check_demo(&result);
    assert!(folder.names().is_empty());
}

#[test]
fn the_demo_runs_on_every_device() {
    let folder = Folder::new();
    let result = folder.run(&["demo", "--json"]).json();
    let adapters = folder.run(&["devices", "--json"]).json()["adapters"].as_array().unwrap().len();
    println!("the demo ran on the CPU and {adapters} adapter(s)");
    assert_eq!(result["devices"].as_array().unwrap().len(), 1 + adapters);
    check_demo(&result);
    // Without a command it is the demo, as a table.
    let bare = folder.run(&[]);
    assert_eq!(bare.code, Some(0), "{}", bare.stderr);
    assert!(bare.stdout.contains("bits/weight") && bare.stdout.contains("nf4-g64"), "{}", bare.stdout);
}
