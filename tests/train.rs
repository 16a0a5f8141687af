//! Quantization-aware training: the operations' gradients, where learned steps come to rest, and networks that are trained.
//!
//! | test | what it is held to |
//! |---|---|
//! | `operations_are_those_of_the_reference` | the differential suite of the CPU engine |
//! | `learned_steps_*` | fixed points of LSQ on N(0, 1), by numerical integration: step within 1 %, SQNR within 0.02 dB |
//! | `learned_clips_*` | PACT's gradient by hand, a clip that finds its data |
//! | `gradients_are_slopes_of_the_loss` | differences of the loss |
//! | `a_gpu_trains_the_same_network` | the CPU engine's weights |
//!
//! The digits are `tests/cli/train_digits.rs`'s.

mod common;
#[path = "common/engines.rs"]
mod engines;
#[path = "common/quantiles.rs"]
mod quantiles;

use lowbit::engine::Quantizer;
use lowbit::learning::{Distillation, Learned, Rule, Update};
use lowbit::product::Function;
use lowbit::random::Random;
use lowbit::report::metrics::Errors;
use lowbit::scheme::{Grid, Group};
use lowbit::selftest::{Options, run};
use lowbit::train::{Clipping, Examples, Network, Optimizer, Plan, Settings, Trainer, answers, fit};
use lowbit::{Array, Engine, Error, Scheme, Tensor};
use pollster::block_on;

const OPERATIONS: [&str; 6] =
    ["dense", "fake_quantize", "step_gradient", "activate", "cross_entropy", "update"];

fn up(engine: &Engine, shape: &[usize], values: &[f32]) -> Array {
    engine.upload(&Tensor::from_f32(shape, values.to_vec()).unwrap()).unwrap()
}

fn read(array: &Array) -> Vec<f32> {
    block_on(array.read()).unwrap().to_f32().into_owned()
}

fn scheme(name: &str) -> Scheme {
    name.parse().unwrap()
}

#[test]
fn operations_are_those_of_the_reference() {
    let options = Options {
        kernels: OPERATIONS.map(String::from).to_vec(),
        schemes: vec![scheme("f32")],
        ..Options::default()
    };
    let report = block_on(run(&Engine::cpu(), &options, |_, _| {})).unwrap();
    assert_eq!(report.failures, [""; 0]);
    for name in OPERATIONS {
        let tally = report.kernels.get(name).unwrap_or_else(|| panic!("{name} did not run"));
        println!(
            "{name}: {} checks, worst {:.3} of its bound, {}",
            tally.checks, tally.worst, tally.worst_case
        );
        assert!(tally.checks > 0 && tally.teeth > 0, "{name} showed nothing");
    }
}

/// Trains a step on x -> Q(x) with the squared error as the loss: where it comes to rest, and the SQNR there.
fn rest(x: &[f32], first: i32, last: i32) -> (f64, f64) {
    let engine = Engine::cpu();
    let grid = Grid::new(first, last, Group::Tensor).unwrap();
    let (n, on) = (x.len() as f32, up(&engine, &[x.len()], x));
    let mean = x.iter().map(|v| f64::from(v.abs())).sum::<f64>() / x.len() as f64;
    let start = (2.0 * mean / f64::from(last).sqrt()) as f32;
    let mut state = up(&engine, &[2, 1], &[start, 0.0]);
    let how = Update { floor: 1e-6, ..Update::new(Rule::Momentum { momentum: 0.5 }, 0.15) };
    let mut quantized = Vec::new();
    for _ in 0..100 {
        let steps = state.first([1]).unwrap();
        let by = Quantizer { grid: &grid, steps: &steps, zeros: None };
        quantized = read(&engine.fake_quantize(&on, by).unwrap());
        let dy: Vec<f32> = quantized.iter().zip(x).map(|(y, x)| 2.0 * (y - x) / n).collect();
        let dy = up(&engine, &[x.len()], &dy);
        let gradient = engine.step_gradient(&on, &dy, by, Learned::Step, 1.0).unwrap();
        state = engine.update(&state, &gradient, &how).unwrap();
    }
    (f64::from(read(&state)[0]), Errors::of(x, &quantized).sqnr_db())
}

/// Bits, then the step and dB of two's complement and of symmetric codes.
const RESTS: [(u32, [f64; 2], [f64; 2]); 5] = [
    (2, [1.09787, 8.234], [1.30392, 7.161]),
    (3, [0.61094, 13.906], [0.66231, 13.285]),
    (4, [0.34022, 19.257], [0.35525, 18.897]),
    (6, [0.10423, 29.818], [0.10554, 29.709]),
    (8, [0.03077, 40.570], [0.03087, 40.540]),
];

#[test]
fn learned_steps_come_to_rest_where_they_should() {
    let x = quantiles::unit();
    let mut wrong = Vec::new();
    for (bits, two, symmetric) in RESTS {
        let last = (1 << (bits - 1)) - 1;
        for (first, [step, db]) in [(-last - 1, two), (-last, symmetric)] {
            let (found, sqnr) = rest(&x, first, last);
            println!("{first}..={last}: step {found:.5}, stated {step}; {sqnr:.3} dB, stated {db}");
            let within = (found / step - 1.0).abs() <= 0.01 && (sqnr - db).abs() <= 0.02;
            if !within {
                wrong.push(format!("{first}..={last}: {found} for {step}, {sqnr} dB for {db}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is inside passes the gradient whole, what is outside nothing: for tensors, channels and groups, symmetric and affine.
#[test]
fn the_gradient_straight_through_is_exact() {
    let engine = Engine::cpu();
    let x: Vec<f32> = (0..24).map(|i| (i as f32 - 11.5) * 0.25).collect();
    let dy: Vec<f32> = (0..24).map(|i| 1.0 + i as f32 / 7.0).collect();
    let (on, on_dy) = (up(&engine, &[2, 12], &x), up(&engine, &[2, 12], &dy));
    for (group, groups) in [(Group::Tensor, 1), (Group::Row, 2), (Group::Cols(4), 6)] {
        for (first, last, zero) in [(-2, 1, None), (0, 7, Some(3.0))] {
            let grid = Grid::new(first, last, group).unwrap();
            let steps = up(&engine, &[groups], &vec![0.5; groups]);
            let zeros = zero.map(|zero| up(&engine, &[groups], &vec![zero; groups]));
            let by = Quantizer { grid: &grid, steps: &steps, zeros: zeros.as_ref() };
            let got = read(&engine.fake_quantize_backward(&on, &on_dy, by).unwrap());
            let zero = zero.unwrap_or(0.0);
            let [low, high] = [first, last].map(|end| (end as f32 - zero) * 0.5);
            for ((got, x), dy) in got.iter().zip(&x).zip(&dy) {
                let wanted = if *x > low && *x < high { *dy } else { 0.0 };
                assert_eq!(*got, wanted, "{group:?} {first}..={last}: {x}");
            }
            assert!(got.contains(&0.0) && got.iter().any(|v| *v != 0.0));
        }
    }
}

#[test]
fn learned_clips_follow_what_they_cut_off() {
    let engine = Engine::cpu();
    let grid = Grid::new(0, 3, Group::Tensor).unwrap();
    let (x, dy) = ([-1.0, 0.0, 0.7, 1.49, 1.5, 4.0], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]);
    let steps = up(&engine, &[1], &[0.5]);
    let by = Quantizer { grid: &grid, steps: &steps, zeros: None };
    let (on, on_dy) = (up(&engine, &[6], &x), up(&engine, &[6], &dy));
    // d alpha = sum of dy where x >= alpha, and alpha is 3 steps.
    let gradient = read(&engine.step_gradient(&on, &on_dy, by, Learned::Clip, 1.0 / 3.0).unwrap());
    assert!((gradient[0] - 48.0).abs() < 1e-4, "{gradient:?}");
    let through = read(&engine.fake_quantize_backward(&on, &on_dy, by).unwrap());
    assert_eq!(through, [0.0, 2.0, 4.0, 8.0, 0.0, 0.0]);
}

/// Two spirals, a little noise: no line parts them.
fn spirals(n: usize, seed: u64) -> (Tensor, Vec<u8>) {
    let mut random = Random::new(seed);
    let (mut x, mut labels) = (Vec::new(), Vec::new());
    for i in 0..n {
        let (label, t) = (i % 2, (0.2 + 0.8 * random.uniform().abs()) * 4.0);
        let angle = t + std::f32::consts::PI * label as f32;
        x.extend([t * angle.cos(), t * angle.sin()].map(|v| 0.25 * v + 0.02 * random.normal()));
        labels.push(label as u8);
    }
    (Tensor::from_f32([n, 2], x).unwrap(), labels)
}

async fn accuracy(engine: &Engine, trainer: &Trainer, x: &Tensor, labels: &[u8]) -> f64 {
    let scores = trainer.scores(&engine.upload(x).unwrap()).unwrap().read().await.unwrap();
    answers(&scores).iter().zip(labels).filter(|(a, b)| a == b).count() as f64 / labels.len() as f64
}

/// A network trained by some settings, and what it says of examples that it has not seen.
fn trained(engine: &Engine, settings: Settings, plan: &Plan, function: Function) -> (Trainer, f64) {
    let (x, labels) = spirals(600, 1);
    let (unseen, truth) = spirals(400, 2);
    let mut random = Random::new(3);
    let network = Network::random(&[2, 48, 48, 2], function, &mut random).unwrap();
    block_on(async {
        let mut trainer = Trainer::new(engine, &network, settings).await.unwrap();
        let examples = Examples::new(&x, &labels, 2).unwrap();
        assert!(fit(&mut trainer, &examples, plan, &mut random, |_, _| {}, None, || true).await.unwrap());
        let share = accuracy(engine, &trainer, &unseen, &truth).await;
        (trainer, share)
    })
}

#[test]
fn networks_learn_by_either_rule_and_function() {
    let engine = Engine::cpu();
    let momentum = Settings { optimizer: Optimizer::Momentum(0.9), rate: 0.1, ..Settings::default() };
    let adam = Settings { rate: 5e-3, ..Settings::default() };
    for (settings, function) in [
        (adam, Function::Relu),
        (adam, Function::Gelu),
        (momentum, Function::Relu),
        (Settings { half: true, ..adam }, Function::Relu),
        (Settings { scheme: Some(scheme("int4-row")), ..adam }, Function::Relu),
        (Settings { scheme: Some(scheme("int4-g16-asym")), ..adam }, Function::Gelu),
        (Settings { clipping: Some(Clipping { bits: 4, clip: 1.0, decay: 1e-3 }), ..adam }, Function::Relu),
    ] {
        let (trainer, share) = trained(&engine, settings, &Plan::of(settings.scheme, 80), function);
        println!("{function:?}, {settings:?}: {:.1} %", 100.0 * share);
        assert!(share > 0.97, "{function:?}, {settings:?}: {share}");
        if settings.clipping.is_some() {
            let clips = block_on(trainer.clips()).unwrap();
            assert!(clips.len() == 2 && clips.iter().all(|clip| *clip != 1.0 && *clip > 0.0), "{clips:?}");
        }
    }
    // The tests see a network that has not learned.
    let (_, share) = trained(&engine, adam, &Plan::of(None, 0), Function::Relu);
    assert!(share < 0.8, "{share}");
}

/// Bits fall from stage to stage, and the packed weights are those that were trained with.
#[test]
fn bits_fall_and_the_result_is_a_packed_network() {
    let engine = Engine::cpu();
    let settings = Settings { rate: 5e-3, ..Settings::default() };
    let bits = ["int8-row", "int4-row", "int2-row"].map(scheme);
    let (trainer, share) = trained(&engine, settings, &Plan::falling(&bits, 60), Function::Relu);
    println!("8, 4, 2 bits: {:.1} %", 100.0 * share);
    assert!(share > 0.9, "{share}");
    let (unseen, _) = spirals(400, 2);
    block_on(async {
        let (network, packed) = (trainer.network().await.unwrap(), trainer.packed().await.unwrap());
        let mut x = engine.upload(&unseen).unwrap();
        let scores = trainer.scores(&x).unwrap().read().await.unwrap();
        for (layer, weight) in network.layers.iter().zip(&packed) {
            assert_eq!(*weight.scheme(), scheme("int2-row"));
            let bias = Some(engine.upload(&layer.bias).unwrap());
            let options = lowbit::MatmulOptions { function: layer.function, bias, ..Default::default() };
            x = engine.matmul(&x, &engine.upload_packed(weight).unwrap(), &options).unwrap();
        }
        let errors = Errors::of(&scores.to_f32(), &x.read().await.unwrap().to_f32());
        assert!(errors.sqnr_db() > 100.0, "{}", errors.sqnr_db());
    });
}

/// Seeds decide everything on the CPU.
#[test]
fn the_same_seed_gives_the_same_bits() {
    let engine = Engine::cpu();
    let settings = Settings { scheme: Some(scheme("int3-row")), rate: 5e-3, ..Settings::default() };
    let weights = || {
        let (trainer, _) = trained(&engine, settings, &Plan::of(settings.scheme, 3), Function::Relu);
        let network = block_on(trainer.network()).unwrap();
        network.layers.iter().flat_map(|layer| layer.weight.bytes().to_vec()).collect::<Vec<u8>>()
    };
    assert_eq!(weights(), weights());
}

/// Central differences of the loss in f32 layers, with a teacher.
#[test]
fn gradients_are_slopes_of_the_loss() {
    let engine = Engine::cpu();
    let mut random = Random::new(9);
    let network = Network::random(&[4, 6, 3], Function::Gelu, &mut random).unwrap();
    let distillation = Some(Distillation { temperature: 2.0, share: 0.5 });
    // Without momentum an update is the gradient times the rate.
    let settings =
        Settings { optimizer: Optimizer::Momentum(0.0), rate: 1.0, distillation, ..Settings::default() };
    let normal = |n: usize, random: &mut Random| (0..n).map(|_| random.normal()).collect::<Vec<f32>>();
    let x = up(&engine, &[5, 4], &normal(20, &mut random));
    let teacher = up(&engine, &[5, 3], &normal(15, &mut random));
    let mut targets = vec![0.0; 15];
    (0..5).for_each(|i| targets[i * 3 + i % 3] = 1.0);
    let targets = up(&engine, &[5, 3], &targets);
    block_on(async {
        let loss = |network: Network| {
            let (engine, x, targets, teacher) = (&engine, &x, &targets, &teacher);
            async move {
                let trainer = Trainer::new(engine, &network, settings).await.unwrap();
                let losses = read(&trainer.losses(x, targets, Some(teacher)).unwrap());
                losses.iter().map(|v| f64::from(*v)).sum::<f64>() / 5.0
            }
        };
        let mut trainer = Trainer::new(&engine, &network, settings).await.unwrap();
        trainer.step(&x, &targets, Some(&teacher), 1.0).await.unwrap();
        let after = trainer.network().await.unwrap();
        for l in 0..2 {
            let parts = |n: &Network| [n.layers[l].weight.clone(), n.layers[l].bias.clone()];
            for (part, (before, after)) in parts(&network).iter().zip(parts(&after)).enumerate() {
                for i in 0..before.len() {
                    let moved = |by: f32| {
                        let mut values = before.to_f32().into_owned();
                        values[i] += by;
                        let tensor = Tensor::from_f32(before.shape(), values).unwrap();
                        let mut other = network.clone();
                        match part {
                            0 => other.layers[l].weight = tensor,
                            _ => other.layers[l].bias = tensor,
                        }
                        loss(other)
                    };
                    let h = 1.0 / 128.0;
                    let slope = (moved(h).await - moved(-h).await) / f64::from(2.0 * h);
                    let gradient = f64::from(before.to_f32()[i] - after.to_f32()[i]);
                    assert!(
                        (slope - gradient).abs() < 2e-4,
                        "layer {l}, part {part}, {i}: {gradient} {slope}"
                    );
                }
            }
        }
    });
}

/// The same batches on a GPU: nothing waits for the device, and weights, steps and clips are those of the CPU engine but for roundings. Codes near a tie may differ, so a part may be off.
#[test]
fn a_gpu_trains_the_same_network() {
    let mut all = Vec::new();
    for engine in engines::engines() {
        let settings = Settings {
            scheme: Some(scheme("int4-g16-asym")),
            clipping: Some(Clipping { bits: 4, clip: 1.0, decay: 1e-3 }),
            rate: 5e-3,
            ..Settings::default()
        };
        let submits = |engine: &Engine| engine.gpu().map_or(0, |gpu| gpu.stats().submits);
        let (mut trainer, _) = trained(&engine, settings, &Plan::of(settings.scheme, 2), Function::Gelu);
        let name = engine.info().name;
        let (x, targets) =
            (up(&engine, &[2, 2], &[0.5, 0.1, -0.2, 0.3]), up(&engine, &[2, 2], &[0.0, 1.0, 1.0, 0.0]));
        let before = submits(&engine);
        assert!(block_on(trainer.step(&x, &targets, None, 1.0)).unwrap(), "{name}");
        assert_eq!(submits(&engine), before, "{name}: a step waits for nothing");
        let network = block_on(trainer.network()).unwrap();
        let weights: Vec<f32> = network.layers.iter().flat_map(|l| l.weight.to_f32().into_owned()).collect();
        let (_, half) = trained(
            &engine,
            Settings { half: true, scheme: None, ..settings },
            &Plan::of(None, 60),
            Function::Relu,
        );
        println!("{name}: {:.1} % in f16", 100.0 * half);
        assert!(half > 0.97, "{name}: {half}");
        all.push((name, weights));
    }
    let (_, right) = &all[0];
    for (name, weights) in &all[1..] {
        let errors = Errors::of(right, weights);
        println!("{name}: {:.1} dB", errors.sqnr_db());
        assert!(errors.sqnr_db() > 40.0, "{name}: {} dB", errors.sqnr_db());
    }
}

/// Gradients that f16 cannot hold leave the weights alone and halve the scale.
#[test]
fn overflow_in_f16_costs_an_update_and_half_the_scale() {
    let engine = Engine::cpu();
    let network = Network::random(&[2, 4, 2], Function::Relu, &mut Random::new(4)).unwrap();
    let settings = Settings { half: true, ..Settings::default() };
    let (usual, targets) = (up(&engine, &[1, 2], &[0.5, -0.25]), up(&engine, &[1, 2], &[0.0, 1.0]));
    block_on(async {
        let mut trainer = Trainer::new(&engine, &network, settings).await.unwrap();
        let before = trainer.network().await.unwrap().layers[0].weight.clone();
        let scale = trainer.loss_scale();
        // Beyond f16: infinities meet.
        let far = up(&engine, &[1, 2], &[f32::MAX, f32::MAX]);
        assert!(!trainer.step(&far, &targets, None, 1.0).await.unwrap());
        assert_eq!(trainer.loss_scale(), scale / 2.0);
        assert_eq!(trainer.network().await.unwrap().layers[0].weight, before);
        assert!(trainer.step(&usual, &targets, None, 1.0).await.unwrap());
        assert_ne!(trainer.network().await.unwrap().layers[0].weight, before);
    });
}

#[test]
fn what_does_not_fit_is_said_with_numbers() {
    let engine = Engine::cpu();
    let x = Tensor::from_f32([3, 2], vec![0.0; 6]).unwrap();
    let say = |result: Result<Examples, Error>| result.unwrap_err().to_string();
    assert_eq!(say(Examples::new(&x, &[0, 1, 7], 3)), "label 2: expected below 3, got 7");
    assert!(say(Examples::new(&x, &[0, 1], 3)).contains("3 examples"));
    let network = Network::random(&[4, 2], Function::Relu, &mut Random::new(1)).unwrap();
    let settings = |name: &str| Settings { scheme: Some(scheme(name)), ..Settings::default() };
    let refuse = |settings| block_on(Trainer::new(&engine, &network, settings)).err().unwrap().to_string();
    assert!(refuse(settings("nf4-g4")).contains("nf4-g4"), "{}", refuse(settings("nf4-g4")));
    let trainer = block_on(Trainer::new(&engine, &network, Settings::default())).unwrap();
    let why = trainer.scores(&engine.upload(&x).unwrap()).unwrap_err().to_string();
    assert_eq!(why, "terms of a and b: expected 2, got 4");
    let grid = Grid::new(-2, 1, Group::Row).unwrap();
    let (on, steps) = (engine.upload(&x).unwrap(), up(&engine, &[2], &[1.0, 1.0]));
    let by = Quantizer { grid: &grid, steps: &steps, zeros: None };
    assert_eq!(engine.fake_quantize(&on, by).unwrap_err().to_string(), "steps: expected [3], got [2]");
    let how = Distillation { temperature: 0.0, share: 0.5 };
    let why = engine.cross_entropy(&on, &on, Some((&on, how)), 1.0).unwrap_err().to_string();
    assert!(why.contains("temperature of 0"), "{why}");
}
