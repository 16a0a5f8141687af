//! Which variant of a product's kernel is fastest here: each is verified, timed, and the winner remembered.
//!
//! ```text
//! Shape -> variants that the device runs -> bench::case::contest (verify, then time) -> judge -> Winner -> Engine::remember
//! ```
//!
//! The default stays unless another is faster beyond the spread of both, so that two runs agree. Which winner is used when is
//! `kernels::choice`'s business, the file `engine`'s. Not in browsers, which have no clock and no file for it.

use crate::bench::case::{Contestant, Timed, contest};
use crate::bench::cases::{Call, Case, FEW_ROWS, Operation, Weight};
use crate::bench::sample::Effort;
use crate::kernels::choice::{self, Facts, Shape, Winner};
use crate::scheme::Method;
use crate::{Engine, Error, Result};

/// What the variants of one product showed. `lowbit tune` tells all of it.
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) struct Contest {
    pub winner: Winner,
    /// Those that the device runs, with times or what is wrong with their results.
    pub contestants: Vec<Contestant>,
    /// Those that it does not run, and why.
    pub left_out: Vec<(&'static str, Error)>,
}

impl Engine {
    /// Times the kernels that could compute products of these shapes and has the fastest run from now on, in this engine and its clones and,
    /// unless it was opened with [`Tune::Off`](crate::engine::Tune::Off), in every engine on this adapter and driver that is opened later.
    /// Each kernel is compared with the reference first. Shapes of a class that is known already are left out. It takes seconds for each shape
    /// and up to 300 MB of device memory; nothing else should run on the device meanwhile. Returns the new winners.
    ///
    /// Results are the same bits as long as the kernels are: see [`Engine::plan`], whose `variant` pins one.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on the CPU engine, which has nothing to choose from; [`Error::Check`] if a default computes something else than
    /// the reference; [`Error::Io`] if winners cannot be remembered; errors of the device.
    pub async fn tune(&self, shapes: &[Shape]) -> Result<Vec<Winner>> {
        let mut winners: Vec<Winner> = Vec::new();
        for shape in shapes {
            let timed = winners.iter().any(|winner| winner.shape.class() == shape.class());
            if !timed && !self.is_tuned(shape) {
                winners.push(run(self, shape, &Effort::FULL, &mut |_| {})?.winner);
            }
        }
        self.remember(&winners)?;
        Ok(winners)
    }
}

/// Verifies and times the variants for a product. `progress` hears of each as it is begun.
///
/// # Errors
/// As [`Engine::tune`].
pub(crate) fn run(
    engine: &Engine,
    shape: &Shape,
    effort: &Effort,
    progress: &mut dyn FnMut(&str),
) -> Result<Contest> {
    let gpu = engine.gpu().ok_or_else(|| {
        Error::unsupported("tuning on the CPU engine", "it has one kernel for each kind of activations")
    })?;
    let on = Facts::of(gpu);
    let default = choice::by_default(&on, shape)?;
    let (mut variants, mut left_out) = (Vec::new(), Vec::new());
    for (variant, choice) in choice::candidates(&on, shape) {
        match choice {
            // By the name that the table has it.
            Ok(choice) if choice == default.choice => variants.insert(0, default.variant),
            Ok(_) => variants.push(variant),
            Err(why) => left_out.push((variant, why)),
        }
    }
    let Shape { m, n, k, scheme, activation, accumulate } = *shape;
    let call = Call { activation, accumulate, kernel: None };
    let operation = if m <= FEW_ROWS { Operation::Matvec } else { Operation::Matmul };
    let case = Case { operation, scheme, m, weight: Weight::new(n, k), call, method: Method::Own };
    let contestants = pollster::block_on(contest(engine, &case, &variants, effort, progress))?;
    let winner = judge(shape, &contestants)?;
    Ok(Contest { winner, contestants, left_out })
}

/// The first, which is the default, unless another's times lie below all between its quartiles; of such the fastest.
fn judge(shape: &Shape, contestants: &[Contestant]) -> Result<Winner> {
    let timed = |c: &Contestant| c.outcome.as_ref().ok().map(|Timed { times, .. }| (c.variant, *times));
    let (default, usual) = match contestants.first() {
        Some(Contestant { variant, outcome: Ok(Timed { times, .. }) }) => (*variant, *times),
        Some(Contestant { variant, outcome: Err(why) }) => {
            return Err(Error::Check { what: format!("{shape}: the default, {variant}: {why}") });
        }
        None => return Err(Error::unsupported(format!("{shape}"), "no kernel takes it")),
    };
    let faster = contestants.iter().filter_map(timed).filter(|(_, t)| t.quartiles[1] < usual.quartiles[0]);
    let best = faster.min_by(|a, b| a.1.median.total_cmp(&b.1.median));
    let (variant, times) = best.unwrap_or((default, usual));
    let (seconds, default_seconds) = (times.median, usual.median);
    Ok(Winner { shape: *shape, variant, seconds, default, default_seconds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::file::{Clock, Regime};
    use crate::bench::sample::Times;
    use crate::product::Product;

    fn timed(variant: &'static str, median: f64, spread: f64) -> Contestant {
        let quartiles = [median - spread, median + spread];
        let times = Times { median, quartiles, samples: 5, runs: 1, clock: Clock::Gpu };
        Contestant { variant, outcome: Ok(Timed { times, regime: Regime::Cache, verified: 1 }) }
    }

    fn wrong(variant: &'static str) -> Contestant {
        Contestant { variant, outcome: Err(Error::Check { what: "y[0, 0] is 1 instead of 2".into() }) }
    }

    #[test]
    fn the_default_stays_unless_another_is_faster_beyond_the_spread() {
        let shape = Shape::new([1, 64, 64], "q4_0".parse().unwrap(), &Product::default());
        let winner =
            |all: &[Contestant]| judge(&shape, all).map(|w| (w.variant, w.seconds, w.default_seconds));
        let default = || timed("a", 10.0, 1.0);
        assert_eq!(winner(&[default(), timed("b", 8.5, 1.0), wrong("c")]).unwrap(), ("a", 10.0, 10.0));
        assert_eq!(winner(&[default(), timed("b", 7.9, 1.0), wrong("c")]).unwrap(), ("b", 7.9, 10.0));
        assert_eq!(
            winner(&[default(), timed("b", 7.0, 1.0), timed("c", 6.0, 1.0)]).unwrap(),
            ("c", 6.0, 10.0)
        );
        // A fast wrong result is none, and a wrong default is an error and not another's gain.
        let error = winner(&[wrong("a"), timed("b", 1.0, 0.1)]).unwrap_err().to_string();
        assert!(error.contains("q4_0 1x64x64") && error.contains("a: y[0, 0]"), "{error}");
        assert!(winner(&[]).is_err());
    }

    #[test]
    fn the_cpu_engine_has_nothing_to_tune() {
        let shape = Shape::new([1, 64, 64], "q4_0".parse().unwrap(), &Product::default());
        let tuned = pollster::block_on(Engine::cpu().tune(&[shape]));
        assert!(matches!(tuned, Err(Error::Unsupported { .. })));
    }
}
