//! Broken files: each field of a small GGUF file and of importance matrices is cut, or made wrong, and the error must name the file, the
//! field and its byte.

use super::build::{self, Gguf};
use lowbit::Error;
use lowbit::file::Model;
use lowbit::file::imatrix::{Imatrix, Importance};

fn refused(bytes: &[u8]) -> String {
    match Model::from_bytes("x.gguf", bytes.to_vec()) {
        Err(e @ Error::Format { .. }) => e.to_string(),
        Err(e) => panic!("{e:?}"),
        Ok(m) => panic!("accepted {:?}", m.entries()),
    }
}

#[track_caller]
fn names(message: &str, field: &str, at: usize, words: &[&str]) {
    assert!(message.starts_with(&format!("x.gguf: {field} at byte {at}: ")), "{field} at {at}: {message}");
    words.iter().for_each(|w| assert!(message.contains(w), "'{w}' is missing in: {message}"));
}

/// A file with a string, an array of strings, an array of numbers and two tensors, and where each of its fields starts.
fn fields() -> (Vec<u8>, Vec<(&'static str, usize)>) {
    let words = build::array(8, 2, &[build::string("ab"), build::string("c")].concat());
    let file = Gguf::new()
        .text("s", "text")
        .pair("w", 9, words)
        .pair("n", 9, build::array(3, 2, &[1, 2, 3, 4]))
        .u32("u", 7)
        .tensor("t0", &[32, 2], 8, &[5; 68])
        .tensor("t1", &[3], 0, &[6; 12])
        .bytes();
    let mut list = Vec::new();
    let mut at = 0;
    let mut field = |name, len: usize| {
        list.push((name, at));
        at += len;
    };
    field("magic", 4);
    field("version", 4);
    field("tensor count", 8);
    field("key-value count", 8);
    field("length of key 0", 8);
    field("key 0", 1);
    field("kind of 's'", 4);
    field("length of value of 's'", 8);
    field("value of 's'", 4);
    field("length of key 1", 8);
    field("key 1", 1);
    field("kind of 'w'", 4);
    field("kind within the value of 'w'", 4);
    field("length of the value of 'w'", 8);
    field("length of string 0 of the value of 'w'", 8);
    field("string 0 of the value of 'w'", 2);
    field("length of string 1 of the value of 'w'", 8);
    field("string 1 of the value of 'w'", 1);
    field("length of key 2", 8);
    field("key 2", 1);
    field("kind of 'n'", 4);
    field("kind within the value of 'n'", 4);
    field("length of the value of 'n'", 8);
    field("value of 'n'", 4);
    field("length of key 3", 8);
    field("key 3", 1);
    field("kind of 'u'", 4);
    field("value of 'u'", 4);
    field("length of name of tensor 0", 8);
    field("name of tensor 0", 2);
    field("rank of tensor 't0'", 4);
    field("dimension 0 of tensor 't0'", 8);
    field("dimension 1 of tensor 't0'", 8);
    field("type of tensor 't0'", 4);
    field("offset of tensor 't0'", 8);
    field("length of name of tensor 1", 8);
    field("name of tensor 1", 2);
    field("rank of tensor 't1'", 4);
    field("dimension 0 of tensor 't1'", 8);
    field("type of tensor 't1'", 4);
    field("offset of tensor 't1'", 8);
    field("end", 0);
    (file, list)
}

fn at(field: &str) -> usize {
    let (_, list) = fields();
    list.iter().find(|(f, _)| *f == field).unwrap_or_else(|| panic!("no {field}")).1
}

/// The file with the bytes of a field replaced.
fn with(field: &str, bytes: &[u8]) -> Vec<u8> {
    let (mut file, _) = fields();
    file[at(field)..][..bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn a_file_cut_at_any_byte_names_the_field() {
    let (file, list) = fields();
    let header = at("end");
    assert_eq!(Model::from_bytes("x", file.clone()).unwrap().entries().len(), 2);
    for cut in 4..header {
        let message = refused(&file[..cut]);
        let (field, at) = *list.iter().rev().find(|(_, at)| *at <= cut).unwrap();
        // What is cut further on is seen by the counts first, which know how little the rest can take, and by arrays' lengths.
        let seen_early =
            ["tensor count at byte 8: ", "key-value count at byte 16: ", "length of the value of "];
        let early = seen_early.iter().any(|s| message.starts_with(&format!("x.gguf: {s}")));
        let exact = message.starts_with(&format!("x.gguf: {field} at byte {at}: truncated"));
        assert!(exact || early && cut > 16, "cut at {cut}, in {field}: {message}");
    }
    // Every field of the infos' end is named itself.
    for field in
        ["offset of tensor 't1'", "type of tensor 't1'", "dimension 0 of tensor 't1'", "rank of tensor 't1'"]
    {
        names(&refused(&file[..at(field) + 1]), field, at(field), &["truncated"]);
    }
    // Data: the padding after the last tensor may be missing, its data not.
    let data = header.next_multiple_of(32);
    let end = data + 96 + 12;
    assert!(Model::from_bytes("x", file[..end].to_vec()).is_ok());
    for cut in [header, data, end - 1] {
        let message = refused(&file[..cut]);
        assert!(
            message.contains(" of tensor 't") && message.contains("beyond the file's"),
            "{cut}: {message}"
        );
    }
    // Less than the magic is no GGUF file, and no other either.
    for cut in 0..4 {
        assert!(refused(&file[..cut]).starts_with("x.gguf: "));
    }
}

#[test]
fn wrong_fields_are_named() {
    let u64s = |n: u64| n.to_le_bytes();
    let u32s = |n: u32| n.to_le_bytes();
    for (field, bytes, words) in [
        ("version", &u32s(0)[..], &["version 0"][..]),
        ("version", &u32s(1), &["version 1", "2 and 3"]),
        ("version", &u32s(4), &["version 4"]),
        ("version", &[0, 0, 0, 3], &["big-endian"]),
        ("tensor count", &u64s(u64::MAX), &["18446744073709551615", "room for"]),
        ("tensor count", &u64s(1 << 40), &["room for"]),
        ("key-value count", &u64s(1 << 63), &["room for"]),
        ("length of key 0", &u64s(65536), &["65536", "at most 65535"]),
        ("length of key 0", &u64s(u64::MAX), &["at most"]),
        ("key 0", &[0xff], &["UTF-8"]),
        ("kind of 's'", &u32s(13), &["13"]),
        ("kind of 's'", &u32s(u32::MAX), &["4294967295"]),
        ("length of value of 's'", &u64s((1 << 30) + 1), &["1073741825", "1073741824"]),
        ("kind within the value of 'w'", &u32s(77), &["77"]),
        ("length of the value of 'w'", &u64s(u64::MAX), &["at most"]),
        ("length of the value of 'w'", &u64s(1 << 30), &["truncated", "8589934592"]),
        ("length of the value of 'n'", &u64s(1 << 29), &["truncated", "1073741824"]),
        ("string 0 of the value of 'w'", &[0xc3, 0x28], &["UTF-8"]),
        ("name of tensor 0", &[0x80, 0], &["UTF-8"]),
        ("rank of tensor 't0'", &u32s(5), &["5 dimensions"]),
        ("dimension 0 of tensor 't0'", &u64s(33), &["33", "Q8_0", "32"]),
        ("dimension 0 of tensor 't0'", &u64s(1 << 63), &["overflows"]),
        ("dimension 1 of tensor 't0'", &u64s(1 << 60), &["overflows"]),
        ("dimension 1 of tensor 't0'", &u64s(u64::MAX), &["overflows"]),
        ("type of tensor 't0'", &u32s(4), &["type 4", "removed"]),
        ("type of tensor 't0'", &u32s(36), &["type 36", "removed"]),
        ("type of tensor 't0'", &u32s(9), &["type 9", "activations"]),
        ("type of tensor 't0'", &u32s(99), &["type 99", "unknown"]),
        ("offset of tensor 't1'", &u64s(97), &["97", "alignment, 32"]),
        ("offset of tensor 't1'", &u64s(1 << 20), &["1048576", "beyond"]),
        ("offset of tensor 't1'", &u64s(u64::MAX - 31), &["beyond"]),
        ("offset of tensor 't1'", &u64s(64), &["overlaps", "'t0'"]),
        ("offset of tensor 't1'", &u64s(0), &["overlaps", "'t0'"]),
    ] {
        names(&refused(&with(field, bytes)), field, at(field), words);
    }
    // Errors that are seen one field later.
    names(&refused(&with("key 1", b"s")), "key 1", at("length of key 1"), &["'s' occurs twice"]);
    names(
        &refused(&with("name of tensor 1", b"t0")),
        "name of tensor 1",
        at("length of name of tensor 1"),
        &["'t0' occurs twice"],
    );
    let zero = refused(&with("dimension 1 of tensor 't0'", &u64s(0)));
    names(&zero, "dimensions of tensor 't0'", at("dimension 0 of tensor 't0'"), &["size 0", "Q8_0"]);
    let nested = refused(&with("kind within the value of 'w'", &u32s(9)));
    names(&nested, "value of 'w'", at("kind within the value of 'w'"), &["array of arrays"]);
    let mut big = with("dimension 0 of tensor 't0'", &u64s(1 << 61));
    big[at("dimension 1 of tensor 't0'")..][..8].copy_from_slice(&u64s(1));
    big[at("type of tensor 't0'")..][..4].copy_from_slice(&u32s(28));
    names(&refused(&big), "dimensions of tensor 't0'", at("dimension 0 of tensor 't0'"), &["overflow"]);
}

#[test]
fn wrong_values_are_named() {
    let start = 24 + 8;
    let alignment =
        |kind: u32, bytes: &[u8]| refused(&Gguf::new().pair("general.alignment", kind, bytes).bytes());
    let at = start + "general.alignment".len() + 4;
    for n in [0u32, 3, 24, u32::MAX] {
        let message = alignment(4, &n.to_le_bytes());
        names(&message, "value of 'general.alignment'", at, &[&n.to_string(), "power of two"]);
    }
    names(&alignment(10, &32u64.to_le_bytes()), "value of 'general.alignment'", at, &["u64", "u32"]);
    names(&refused(&Gguf::new().pair("b", 7, [2]).bytes()), "value of 'b'", start + 1 + 4, &["bool", "02"]);
    let bools = Gguf::new().pair("b", 9, build::array(7, 3, &[0, 1, 2])).bytes();
    names(&refused(&bools), "value of 'b'", start + 1 + 4 + 12 + 2, &["bool"]);
    names(&refused(&Gguf::new().u32("", 1).bytes()), "key 0", 24, &["empty"]);
    names(&refused(b"GGUF"), "version", 4, &["truncated"]);
    assert!(refused(b"GGML\x03\0\0\0\0\0\0\0").contains("not a safetensors file"));
}

/// A small importance matrix in the GGUF form: a weight of one matrix, and one of two.
fn imatrix() -> Gguf {
    Gguf::new()
        .text("general.type", "imatrix")
        .pair(
            "imatrix.datasets",
            9,
            build::array(8, 2, &[build::string("a.txt"), build::string("b")].concat()),
        )
        .u32("imatrix.chunk_count", 3)
        .u32("imatrix.chunk_size", 512)
        .tensor("w.in_sum2", &[4], 0, &build::f32s(&[1.0, 2.0, 3.0, 0.0]))
        .tensor("w.counts", &[1], 0, &build::f32s(&[2.0]))
        .tensor("e.in_sum2", &[2, 2], 0, &build::f32s(&[5.0, 6.0, 7.0, 8.0]))
        .tensor("e.counts", &[1, 2], 0, &build::f32s(&[4.0, 0.0]))
}

fn older(n: i32, entries: &[(&str, i32, &[f32])], end: Option<(i32, &str)>) -> Vec<u8> {
    let mut out = n.to_le_bytes().to_vec();
    for (name, calls, values) in entries {
        out.extend((name.len() as i32).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(calls.to_le_bytes());
        out.extend((values.len() as i32).to_le_bytes());
        out.extend(build::f32s(values));
    }
    if let Some((chunks, dataset)) = end {
        out.extend(chunks.to_le_bytes());
        out.extend((dataset.len() as i32).to_le_bytes());
        out.extend(dataset.as_bytes());
    }
    out
}

fn broken(bytes: &[u8]) -> String {
    match Imatrix::from_bytes("x.gguf", bytes.to_vec()) {
        Err(e @ Error::Format { .. }) => e.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn importance_is_the_mean_of_squares() {
    let m = Imatrix::from_bytes("x", imatrix().bytes()).unwrap();
    assert_eq!((m.chunk_count, m.chunk_size), (Some(3), Some(512)));
    assert_eq!(m.datasets, ["a.txt", "b"]);
    assert_eq!(m.weights["w"], Importance { n_mat: 1, k: 4, values: vec![0.5, 1.0, 1.5, 0.0] });
    assert_eq!(m.weights["e"], Importance { n_mat: 2, k: 2, values: vec![1.25, 1.5, 1.0, 1.0] });

    let entries: [(&str, i32, &[f32]); 2] = [("w", 4, &[1.0, 2.0]), ("v", 0, &[3.0])];
    let m = Imatrix::from_bytes("x", older(2, &entries, Some((7, "wiki.txt")))).unwrap();
    assert_eq!(
        (m.chunk_count, m.chunk_size, m.datasets.as_slice()),
        (Some(7), None, &["wiki.txt".into()][..])
    );
    assert_eq!(m.weights["w"], Importance { n_mat: 1, k: 2, values: vec![0.25, 0.5] });
    assert_eq!(m.weights["v"].values, [1.0]);
    let m = Imatrix::from_bytes("x", older(1, &entries[..1], None)).unwrap();
    assert_eq!((m.chunk_count, m.datasets.len()), (None, 0));
}

#[test]
fn broken_importance_is_named() {
    let with = |name: &str, kind: u32, dims: &[u64], data: &[u8]| {
        let mut file = Gguf::new().text("general.type", "imatrix");
        file = file.tensor("w.in_sum2", &[2], 0, &build::f32s(&[1.0, 2.0]));
        broken(&file.tensor(name, dims, kind, data).bytes())
    };
    assert!(with("v.counts", 0, &[1], &build::f32s(&[1.0])).contains("'w' has no 'w.counts'"));
    assert!(with("w.counts", 0, &[3], &build::f32s(&[1.0; 3])).contains("do not go together"));
    for wrong in [-1.0, f32::NAN, f32::INFINITY] {
        let message = with("w.counts", 0, &[1], &build::f32s(&[wrong]));
        // magic to counts 24, general.type 39, infos 45 and 44, padded to 160; the counts are 32 on.
        names(&message, "value 0 in the data of tensor 'w.counts'", 192, &["no sum of squares"]);
    }
    names(&with("w.counts", 24, &[1], &[1]), "data of tensor 'w.counts'", 192, &["i8", "f32"]);
    let lone = Gguf::new().text("general.type", "imatrix").tensor("v.counts", &[1], 0, &[0; 4]);
    assert!(broken(&lone.bytes()).contains("'v.counts'"));
    assert!(broken(&Gguf::new().text("general.type", "model").bytes()).contains("\"model\""));
    assert!(broken(&Gguf::new().bytes()).contains("missing"));
    let key = |key: &str, kind: u32, value: &[u8]| {
        broken(&Gguf::new().text("general.type", "imatrix").pair(key, kind, value).bytes())
    };
    assert!(key("imatrix.chunk_count", 5, &[255; 4]).contains("imatrix.chunk_count: -1"));
    assert!(key("imatrix.datasets", 4, &[0; 4]).contains("imatrix.datasets"));
    let cut = imatrix().bytes();
    assert!(broken(&cut[..cut.len() - 40]).contains("at byte"));
}

#[test]
fn the_older_form_cut_at_any_byte_names_the_field() {
    let file = older(1, &[("blk", 4, &[1.0, 2.0])], Some((7, "wiki")));
    let list = [
        ("entry count", 0),
        ("name length of entry 0", 4),
        ("name of entry 0", 8),
        ("call count of 'blk'", 11),
        ("value count of 'blk'", 15),
        ("values of 'blk'", 19),
        ("chunk count", 27),
        ("length of the dataset's name", 31),
        ("dataset's name", 35),
    ];
    assert!(Imatrix::from_bytes("x", file.clone()).is_ok());
    // Without the trailer it is whole, too.
    for cut in (0..file.len()).filter(|cut| *cut != 27) {
        let (field, at) = *list.iter().rev().find(|(_, at)| *at <= cut).unwrap();
        let message = broken(&file[..cut]);
        if (4..16).contains(&cut) {
            names(&message, "entry count", 0, &["room for"]);
        } else {
            names(&message, field, at, &["truncated"]);
        }
    }
    let with = |at: usize, n: i32| {
        let mut file = file.clone();
        file[at..][..4].copy_from_slice(&n.to_le_bytes());
        broken(&file)
    };
    names(&with(0, 0), "entry count", 0, &["not an importance matrix"]);
    names(&with(0, -1), "entry count", 0, &["-1"]);
    names(&with(0, i32::MAX), "entry count", 0, &["2147483647"]);
    names(&with(4, -5), "name length of entry 0", 4, &["-5"]);
    names(&with(4, i32::MAX), "name of entry 0", 8, &["truncated"]);
    names(&with(4, 0), "name of entry 0", 4, &["empty"]);
    names(&with(11, -1), "call count of 'blk'", 11, &["-1"]);
    names(&with(15, i32::MAX), "values of 'blk'", 19, &["truncated", "8589934588"]);
    names(&with(15, 0), "value count of 'blk'", 15, &["no values"]);
    names(&with(19, f32::NAN.to_bits() as i32), "value 0 in the values of 'blk'", 19, &["NaN"]);
    names(&with(27, -1), "chunk count", 27, &["-1"]);
    names(&broken(&[&file[..], &[0]].concat()), "end", 39, &["1 bytes"]);
    let twice = older(2, &[("w", 1, &[1.0]), ("w", 1, &[1.0])], None);
    names(&broken(&twice), "name of entry 1", 4 + 17, &["'w' occurs twice"]);
    let mut latin = file.clone();
    latin[8] = 0xff;
    names(&broken(&latin), "name of entry 0", 8, &["UTF-8"]);
}
