//! GPTQ: columns are rounded one after the other, and what is rounded away is made up for in the columns that come later.
//!
//! ```text
//! H + damping (tenfold while it is not positive definite) --order--> cpu::factor: T D T^T --> cpu::quantize_sweeping: scales by the scheme's encoder, codes
//! ```
//!
//! The order of the sweep ([`Order`]) matters where columns differ in how much they count: the first ones are rounded without having been touched, the last
//! ones take the errors of all others.
//!
//! - `natural`: as they lie.
//! - `activity`: the largest diagonals first ("act-order"). A `-perm` scheme stores the columns in that order, its groups are of columns that are alike; in others columns keep
//!   their places.
//! - `groups`: groups by the sum of their diagonals, and columns within them ("group-aware"), so that a group's columns come one behind the other.
//!
//! Scales are found before the sweep, of the weights as they were ("static groups"), or with [`Settings::underway`] when a group's turn comes: weights that have taken errors have longer
//! ranges, and at two or three bits the longer steps lose more than is won.
//!
//! Channels that calibration never saw (0 on the diagonal) are rounded to the nearest value and neither take nor give errors: another text may use them.
//!
//! Source: Frantar et al. 2022, and for T the equivalence of Chee et al. 2023 (LDLQ). Differs: no inverse is formed, dead channels keep their weights, damping rises instead of failing.

use super::Hessian;
use crate::scheme::Method;
use crate::{Error, PackedTensor, Result, Scheme, Tensor, cpu, threads};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// In which order columns are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    Natural,
    #[default]
    Activity,
    Groups,
}

impl Order {
    pub const ALL: [Self; 3] = [Self::Natural, Self::Activity, Self::Groups];
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Natural => "natural",
            Self::Activity => "activity",
            Self::Groups => "groups",
        })
    }
}

impl FromStr for Order {
    type Err = Error;

    /// Parses an order's name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the names there are.
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|order| order.to_string() == text.trim().to_ascii_lowercase()).ok_or_else(
            || {
                Error::Usage(format!(
                    "no order '{text}'; there are {}",
                    Self::ALL.map(|o| o.to_string()).join(", ")
                ))
            },
        )
    }
}

/// What a user may choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub order: Order,
    /// Find the scale of a group when its turn comes, of weights that have taken errors by then, instead of before.
    pub underway: bool,
    /// Added to the diagonal, as a share of its mean.
    pub damping: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { order: Order::default(), underway: false, damping: 0.01 }
    }
}

/// A weight, and how it came to be.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub packed: PackedTensor,
    /// The damping that was enough.
    pub damping: f32,
    /// Channels that calibration never saw.
    pub dead: usize,
    /// The loss that is to be expected beside rounding to nearest, from the factor alone: mean(D) / mean(diag H), damping included.
    pub predicted: f64,
}

/// The most damping that is tried, in means of the diagonal: far beyond, rounding is to nearest.
const MOST_DAMPING: f32 = 1e6;

/// Quantizes a weight `[.., N, K]` of the layer `name`, scales found by `method`.
///
/// # Errors
/// As [`cpu::quantize_by`]; [`Error::Shape`] for a Hessian of another K; [`Error::Usage`] for damping that is not above 0 and finite; [`Error::Check`] if no damping is enough;
/// [`Error::Unsupported`] for plain floats.
pub fn quantize(
    tensor: &Tensor,
    name: &str,
    scheme: &Scheme,
    method: Method,
    hessian: &Hessian,
    settings: &Settings,
) -> Result<Outcome> {
    hessian.check(tensor, name)?;
    let k = hessian.k();
    let valid = settings.damping > 0.0 && settings.damping <= MOST_DAMPING;
    if !valid {
        let why = format!("damping {}: a share above 0 of the mean of the diagonal", settings.damping);
        return Err(Error::Usage(why));
    }
    let order = order(scheme, hessian, settings.order);
    let sum: f64 = (0..k).map(|i| f64::from(hessian.diagonal(i))).sum();
    // Nothing was ever seen but zeros: every channel is dead.
    let mean = if sum > 0.0 { (sum / k as f64) as f32 } else { 1.0 };
    let h = in_order(hessian, &order);
    let mut damping = settings.damping;
    let factor = loop {
        if let Some(factor) = cpu::factor(&h, k, damping * mean) {
            break factor;
        }
        damping *= 10.0;
        if damping > MOST_DAMPING {
            let what = "X^T X has eigenvalues so far below 0 that no damping makes it positive".into();
            return Err(Error::Check { what }.in_tensor(name));
        }
    };
    drop(h);
    let left: f64 = factor.diagonal.iter().map(|d| f64::from(*d)).sum();
    let predicted = left / (sum + f64::from(damping * mean) * k as f64);
    let packed = cpu::quantize_sweeping(tensor, name, scheme, method, &order, settings.underway, &factor)?;
    let dead = (0..k).filter(|i| hessian.diagonal(*i) == 0.0).count();
    Ok(Outcome { packed, damping, dead, predicted })
}

/// The columns in the order of the sweep.
fn order(scheme: &Scheme, hessian: &Hessian, order: Order) -> Vec<u32> {
    let k = hessian.k();
    let mut columns: Vec<u32> = (0..k as u32).collect();
    let size = |column: &u32| hessian.diagonal(*column as usize);
    match order {
        Order::Natural => {}
        Order::Activity => columns.sort_by(|a, b| size(b).total_cmp(&size(a))),
        Order::Groups => {
            let mut groups: Vec<(f64, Vec<u32>)> = columns
                .chunks(scheme.unit_len(k))
                .map(|group| {
                    let mut group = group.to_vec();
                    group.sort_by(|a, b| size(b).total_cmp(&size(a)));
                    (group.iter().map(|column| f64::from(size(column))).sum(), group)
                })
                .collect();
            groups.sort_by(|a, b| b.0.total_cmp(&a.0));
            columns = groups.into_iter().flat_map(|(_, group)| group).collect();
        }
    }
    columns
}

/// H with rows and columns in the order of the sweep.
fn in_order<'a>(hessian: &'a Hessian, order: &[u32]) -> Cow<'a, [f32]> {
    if order.is_sorted() {
        return Cow::Borrowed(hessian.values());
    }
    let k = hessian.k();
    let mut h = vec![0f32; k * k];
    let rows: Vec<_> = h.chunks_mut(k).zip(order).collect();
    threads::for_each(rows, k * k, |(row, &from)| {
        let from = &hessian.values()[from as usize * k..][..k];
        row.iter_mut().zip(order).for_each(|(to, &column)| *to = from[column as usize]);
    });
    Cow::Owned(h)
}
