//! Tuning: winners run, clones and engines opened later know them, and nothing is read or written that was not asked for.

use super::*;
use lowbit::engine::Origin;
use lowbit::kernels::choice::{Shape, Winner};

/// On lavapipe alone: one driver's compiler shows what this is about.
#[test]
fn winners_run_and_are_remembered() {
    let Some(found) = adapters().iter().find(|found| is_lavapipe(found)) else {
        return println!("NOT COVERED: no lavapipe here, nothing is tuned");
    };
    let name = found.info.summary();
    let folder = tempfile::tempdir().unwrap();
    let open = |tune: Tune| {
        let tune_folder = Some(folder.path().to_path_buf());
        let options = EngineOptions { tune, tune_folder, ..EngineOptions::default() };
        block_on(Engine::open_adapter(&found.adapter, &options)).unwrap()
    };
    let case = Exact::new(&scheme("q8_0"), 20, 96, 64, 3);
    let shape = Shape::new([20, 96, 64], *case.w.scheme(), &Product::default());
    let (options, other_shape) = (MatmulOptions::default(), Shape { m: 1, ..shape });
    let plan = |engine: &Engine, m| {
        let plan = engine.plan(m, &engine.upload_packed(&case.w).unwrap(), &options).unwrap();
        (plan.origin, plan.variant)
    };

    // A fresh folder: the table decides, and nothing is written by loading.
    let engine = open(Tune::Load);
    let default = plan(&engine, 20);
    assert_eq!((default.0, engine.warnings().len()), (Origin::Default, 0));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    // Timing finds a winner, whichever it is; the clone has it and another engine reads it.
    let clone = engine.clone();
    let winners = block_on(engine.tune(&[shape, shape])).unwrap();
    assert_eq!(winners.len(), 1, "one class is timed once");
    assert_eq!((winners[0].shape, winners[0].default), (shape, default.1));
    for engine in [&engine, &clone, &open(Tune::Load)] {
        assert_eq!(plan(engine, 20), (Origin::Tuned, winners[0].variant), "{name}");
        assert_eq!(plan(engine, 1).0, Origin::Default, "{name}: another class");
        assert_exact(&name, engine, &case, &options);
    }
    assert!(block_on(engine.tune(&[shape])).unwrap().is_empty(), "known by now");

    // One that is not the default runs: its pipeline, the same as if it were pinned.
    let other = ["matmul:64x64", "matmul:32x32"].into_iter().find(|name| *name != default.1).unwrap();
    engine.remember(&[Winner { variant: other, ..winners[0].clone() }]).unwrap();
    let later = open(Tune::Load);
    assert_eq!(plan(&later, 20), (Origin::Tuned, other), "{name}");
    assert_exact(&name, &later, &case, &options);
    let compiled = later.gpu().unwrap().stats().pipelines_compiled;
    assert_exact(&name, &later, &case, &MatmulOptions { kernel: Some(other), ..options.clone() });
    assert_eq!(later.gpu().unwrap().stats().pipelines_compiled, compiled, "{name}");

    // Without a file.
    let off = open(Tune::Off);
    assert_eq!((plan(&off, 20), off.tuning_file()), (default, None));
    let file = engine.tuning_file().unwrap().to_path_buf();
    let before = std::fs::read(&file).unwrap();
    off.remember(&[Winner { shape: other_shape, ..winners[0].clone() }]).unwrap();
    assert!(off.is_tuned(&other_shape) && std::fs::read(&file).unwrap() == before, "kept in memory");

    // Timed while it is opened, if it is not known.
    let now = open(Tune::Now(vec![shape, other_shape]));
    assert_eq!((plan(&now, 20), plan(&now, 1).0), ((Origin::Tuned, other), Origin::Tuned), "{name}");
    assert_eq!(plan(&open(Tune::Load), 1).0, Origin::Tuned, "{name}: remembered");

    // A file that cannot be used: a warning, and the table.
    std::fs::write(&file, &before[..before.len() / 2]).unwrap();
    let warned = open(Tune::Load);
    assert_eq!((plan(&warned, 20), warned.warnings().len()), (default, 1), "{:?}", warned.warnings());
    assert!(warned.warnings()[0].contains("ignored"), "{:?}", warned.warnings());
}
