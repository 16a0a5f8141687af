//! Examples in batches, epoch after epoch, through stages of falling bits.
//!
//! ```text
//! Examples --order of the epoch--> batches --changed (noise, shifts)--> Trainer::step        a Stage sets the scheme, and the rate falls to 0 in it along a cosine
//! ```

use super::trainer::Trainer;
use crate::random::Random;
use crate::{Array, Error, Result, Scheme, Tensor};

/// What is learned from.
#[derive(Clone, Debug)]
pub struct Examples {
    x: Vec<f32>,
    labels: Vec<u8>,
    width: usize,
    classes: usize,
}

impl Examples {
    /// Examples x `[M, width]` with their labels.
    ///
    /// # Errors
    /// [`Error::Shape`] for other numbers of rows and labels, for none, and for a label that is no class.
    pub fn new(x: &Tensor, labels: &[u8], classes: usize) -> Result<Self> {
        let (rows, width) = x.matrix();
        if rows != labels.len() || x.is_empty() {
            return Err(Error::shape(
                "labels",
                format!("one for each of {rows} examples, one at least"),
                labels.len(),
            ));
        }
        if let Some(at) = labels.iter().position(|&label| usize::from(label) >= classes) {
            return Err(Error::shape(format!("label {at}"), format!("below {classes}"), labels[at]));
        }
        Ok(Self { x: x.to_f32().into_owned(), labels: labels.to_vec(), width, classes })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// Some of them: rows of x, and the probabilities that their labels stand for.
    fn batch(&self, chosen: &[usize]) -> (Vec<f32>, Vec<f32>) {
        let x = chosen.iter().flat_map(|&i| &self.x[i * self.width..][..self.width]).copied().collect();
        let mut targets = vec![0f32; chosen.len() * self.classes];
        for (row, &i) in targets.chunks_mut(self.classes).zip(chosen) {
            row[usize::from(self.labels[i])] = 1.0;
        }
        (x, targets)
    }
}

/// Epochs in one scheme.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// The weights' from here on; None: f32.
    pub scheme: Option<Scheme>,
    pub epochs: usize,
}

/// How long, and in which pieces.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One after the other.
    pub stages: Vec<Stage>,
    /// Examples of an update.
    pub batch: usize,
}

impl Plan {
    /// All epochs in one scheme.
    pub fn of(scheme: Option<Scheme>, epochs: usize) -> Self {
        Self { stages: vec![Stage { scheme, epochs }], batch: 64 }
    }

    /// From more bits to fewer, so many epochs in each.
    pub fn falling(schemes: &[Scheme], epochs: usize) -> Self {
        let stages = schemes.iter().map(|&scheme| Stage { scheme: Some(scheme), epochs }).collect();
        Self { stages, batch: 64 }
    }

    /// Epochs in all.
    pub fn epochs(&self) -> usize {
        self.stages.iter().map(|stage| stage.epochs).sum()
    }
}

/// Trains by a plan, and says whether it came to the plan's end. `change` may alter the x of a batch; `teacher` is asked for its scores of it where the settings distil; `go_on` is
/// asked at the end of each epoch.
///
/// # Errors
/// [`Error::Shape`] for a batch of 0 and examples that the network does not fit; as [`Trainer::step`].
pub async fn fit(
    trainer: &mut Trainer,
    examples: &Examples,
    plan: &Plan,
    random: &mut Random,
    change: impl Fn(&mut [f32], &mut Random),
    teacher: Option<&Trainer>,
    mut go_on: impl FnMut() -> bool,
) -> Result<bool> {
    if plan.batch == 0 {
        return Err(Error::shape("a batch", "an example at least", 0));
    }
    let engine = trainer.engine().clone();
    let mut order: Vec<usize> = (0..examples.count()).collect();
    let teacher = teacher.filter(|_| trainer.settings().distillation.is_some());
    for stage in &plan.stages {
        if stage.scheme != trainer.settings().scheme {
            trainer.set_scheme(stage.scheme).await?;
        }
        let batches = examples.count().div_ceil(plan.batch);
        let mut done = 0;
        for _ in 0..stage.epochs {
            random.shuffle(&mut order);
            for chosen in order.chunks(plan.batch) {
                let (mut x, targets) = examples.batch(chosen);
                change(&mut x, random);
                let up = |values: Vec<f32>, width: usize| -> Result<Array> {
                    engine.upload(&Tensor::from_f32([chosen.len(), width], values)?)
                };
                let (x, targets) = (up(x, examples.width)?, up(targets, examples.classes)?);
                let wanted = teacher.map(|teacher| teacher.scores(&x)).transpose()?;
                let share = done as f32 / (stage.epochs * batches) as f32;
                let rate = 0.5 * (1.0 + (std::f32::consts::PI * share).cos());
                trainer.step(&x, &targets, wanted.as_ref(), rate).await?;
                done += 1;
            }
            // What is recorded is begun, so that it does not pile up.
            engine.submit()?;
            if !go_on() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
