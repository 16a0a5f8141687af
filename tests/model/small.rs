//! A model of two layers made here: what does not depend on its numbers.

use super::*;
use crate::fixture::{Fixture, bert};
use lowbit::Error;
use lowbit::calibrate::{Collector, Statistics};
use lowbit::gpu::adapter;

fn folder(change: impl FnOnce(&mut Fixture)) -> tempfile::TempDir {
    let mut fixture = bert();
    change(&mut fixture);
    let folder = tempfile::tempdir().unwrap();
    fixture.write(folder.path());
    folder
}

fn refused(change: impl FnOnce(&mut Fixture)) -> String {
    let folder = folder(change);
    let opened = block_on(Embedder::open(&Engine::cpu(), folder.path(), Settings::default()));
    let error = opened.err().expect("a fault that is seen").to_string();
    error.replace(folder.path().to_str().unwrap(), "FOLDER")
}

#[test]
fn a_sentence_has_the_same_vector_in_every_batch() {
    let folder = folder(|_| {});
    let engines = block_on(adapter::list())
        .into_iter()
        .map(|f| block_on(Engine::open_adapter(&f.adapter, &lowbit::EngineOptions::default())).unwrap());
    for engine in std::iter::once(Engine::cpu()).chain(engines) {
        let name = engine.info().name;
        let embedder = open(&engine, folder.path());
        let texts: Vec<String> =
            ["the", "lowbit thes", "low low low the", "", "bit"].map(str::to_string).to_vec();
        let together = embeddings(&embedder, &texts);
        for (text, row) in texts.iter().zip(&together) {
            let alone = &embeddings(&embedder, &[text])[0];
            // Products of other numbers of rows may be other kernels, which sum in another order.
            assert!(cosine(alone, row) > 1.0 - 1e-9, "{name} {text:?}");
            let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            assert!((norm - 1.0).abs() < 1e-6, "{name} {text:?}: {norm}");
        }
        assert!(cosine(&together[0], &together[1]) < 0.999, "{name}: two texts have the same embedding");
    }
}

#[test]
fn texts_that_are_too_long_are_cut_or_taken_in_chunks() {
    let folder = folder(|_| {});
    let embedder = open(&Engine::cpu(), folder.path());
    let (the, low) = (6u32, 8u32);
    let text = "the ".repeat(40) + &"low ".repeat(10);
    let cut = embedder.tokenizer.tokenize(&text).unwrap();
    assert_eq!(cut.cut_from, Some(52));
    assert_eq!(cut.ids, [&[2u32][..], &[the; 30], &[3]].concat());
    let chunks = embedder.tokenizer.chunks(&text).unwrap();
    assert_eq!(
        chunks,
        [[&[2u32][..], &[the; 25], &[3]].concat(), [&[2u32][..], &[the; 15], &[low; 10], &[3]].concat()]
    );
    let whole = embedder.tokenize(&[&text], Long::Chunk).unwrap();
    let got = block_on(embedder.embed(&whole, |_| {})).unwrap().to_f32().into_owned();
    let parts = embeddings(&embedder, &["the ".repeat(25), "the ".repeat(15) + &"low ".repeat(10)]);
    let sum: Vec<f32> = parts[0].iter().zip(&parts[1]).map(|(a, b)| a + b).collect();
    assert!(cosine(&got, &sum) > 1.0 - 1e-9);
    // The same number of tokens as the model takes is not cut.
    let fits = embedder.tokenizer.tokenize(&"the ".repeat(30)).unwrap();
    assert_eq!((fits.ids.len(), fits.cut_from), (32, None));
    assert_eq!(
        embedder.encoder.hidden(&[2; 33], &[33]).map(|_| ()).unwrap_err().to_string(),
        "tokens of sentence 0: expected at most 32, got 33"
    );
}

#[test]
fn a_packed_file_carries_what_is_needed() {
    let folder = folder(|_| {});
    let packed = folder.path().join("q8.safetensors");
    quantize(folder.path(), "q8_0", &packed);
    let moved = tempfile::tempdir().unwrap();
    let alone = moved.path().join("m.safetensors");
    std::fs::rename(&packed, &alone).unwrap();
    let (a, b) = (open(&Engine::cpu(), folder.path()), open(&Engine::cpu(), &alone));
    let text = ["the lowbit"];
    assert!(cosine(&embeddings(&a, &text)[0], &embeddings(&b, &text)[0]) > 0.999);
    assert_ne!(embeddings(&a, &text), embeddings(&b, &text), "nothing was quantized");
    // The tensors by themselves are no model.
    let bare = moved.path().join("bare.safetensors");
    std::fs::copy(folder.path().join("model.safetensors"), &bare).unwrap();
    let error = block_on(Embedder::open(&Engine::cpu(), &bare, Settings::default())).err().unwrap();
    assert!(
        matches!(error, Error::Unsupported { .. }) && error.to_string().contains("config.json"),
        "{error}"
    );
}

#[test]
fn statistics_of_inputs_are_kept_and_found_again() {
    let folder = folder(|_| {});
    let engine = Engine::cpu();
    let embedder = open(&engine, folder.path());
    let mut collector = Collector::new(&engine, 4);
    let mut seen = Vec::new();
    for ids in [&[2u32, 6, 8, 9, 3][..], &[2, 8, 3]] {
        let forward = embedder.encoder.forward(ids, &[ids.len()], &mut |layers, x| {
            seen.push((layers.iter().map(|l| l.to_string()).collect::<Vec<_>>(), x.clone()));
            collector.see(layers, x)
        });
        forward.unwrap();
        block_on(collector.absorb()).unwrap();
    }
    let statistics = block_on(collector.finish()).unwrap();
    // Four inputs in each of two layers, of six linear layers.
    assert_eq!(statistics.inputs.len(), 8);
    assert_eq!(statistics.inputs.iter().map(|i| i.layers.len()).sum::<usize>(), 12);
    let inputs = statistics.of("encoder.layer.1.output.dense.weight").unwrap();
    let x: Vec<f32> = seen
        .iter()
        .filter(|(layers, _)| *layers == inputs.layers)
        .flat_map(|(_, x)| block_on(x.read()).unwrap().to_f32().into_owned())
        .collect();
    assert_eq!((inputs.k, inputs.tokens, x.len()), (128, 8, 8 * 128));
    let want = lowbit::reference::gram(&x, 128, None);
    assert!(
        inputs.moments.iter().zip(&want).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-4 * (1.0 + b.abs()))
    );
    let path = folder.path().join("stats.safetensors");
    statistics.write(std::fs::File::create(&path).unwrap(), &path).unwrap();
    assert_eq!(Statistics::open(&path).unwrap(), statistics);
    let other = folder.path().join("model.safetensors");
    assert!(Statistics::open(&other).unwrap_err().to_string().contains("no statistics"));
    // Any byte of the header that is changed is an error or other statistics, and no panic.
    let whole = std::fs::read(&path).unwrap();
    for at in (0..3000).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x15;
        std::fs::write(&path, &bytes).unwrap();
        let _ = Statistics::open(&path);
    }
}

#[test]
fn faults_are_named() {
    type Change = fn(&mut Fixture);
    let faults: [(&str, Change); 14] = [
        ("tensor 'encoder.layer.1.output.dense.bias' is missing", |f| {
            f.tensors.remove("encoder.layer.1.output.dense.bias");
        }),
        ("tensor 'encoder.layer.0.attention.self.key.weight': shape: expected [64, 64]", |f| {
            f.matrix("encoder.layer.0.attention.self.key.weight", &[32, 64]);
        }),
        ("'num_hidden_layers'", |f| {
            f.config.as_object_mut().unwrap().remove("num_hidden_layers");
        }),
        ("'num_attention_heads': 5 does not divide", |f| f.config["num_attention_heads"] = 5.into()),
        ("'hidden_act': relu", |f| f.config["hidden_act"] = "relu".into()),
        ("token 99, and the model has 16 tokens", |f| f.tokenizer["model"]["vocab"]["beyond"] = 99.into()),
        ("post_processor: '[SEP]' is token 900, and the model has 16 tokens", |f| {
            f.tokenizer["post_processor"]["special_tokens"]["[SEP]"]["ids"] = serde_json::json!([900]);
        }),
        ("post_processor: '[SEP]' is not among its special tokens", |f| {
            f.tokenizer["post_processor"]["special_tokens"].as_object_mut().unwrap().remove("[SEP]");
        }),
        ("tokenizer.json", |f| f.tokenizer["model"] = "none".into()),
        ("T5ForConditionalGeneration", |f| {
            f.config["architectures"] = ["T5ForConditionalGeneration"].as_slice().into()
        }),
        ("tensor 'encoder.layer.1.output.LayerNorm.bias': element 3 is NaN", |f| {
            f.tensors.get_mut("encoder.layer.1.output.LayerNorm.bias").unwrap().1[3] = f32::NAN;
        }),
        ("a decoder (is_decoder", |f| f.config["is_decoder"] = true.into()),
        ("5 tokens, and the model has 16", |f| {
            let vocab = f.tokenizer["model"]["vocab"].as_object_mut().unwrap();
            vocab.retain(|_, id| id.as_u64().unwrap() < 5);
        }),
        ("'layer_norm_eps'", |f| f.config["layer_norm_eps"] = "small".into()),
    ];
    for (want, change) in faults {
        let error = refused(change);
        assert!(error.contains(want), "{want}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let llama = tempfile::tempdir().unwrap();
    crate::fixture::llama().write(llama.path());
    let error = block_on(Embedder::open(&Engine::cpu(), llama.path(), Settings::default())).err().unwrap();
    assert!(error.to_string().contains("architecture 'llama'"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(block_on(Embedder::open(&Engine::cpu(), empty.path(), Settings::default())).is_err());
}
