//! The oracle of an update of parameters, by the formulas of `learning::Rule`, in f64.
//!
//! ```text
//! state [states, n]: the parameters, then what the rule remembers; gradient [n] -> the next state
//! ```

use crate::learning::{Rule, Update};

/// The state after an update.
pub fn update(state: &[f32], gradient: &[f32], how: &Update) -> Vec<f64> {
    let n = gradient.len();
    let mut next = vec![0.0; state.len()];
    let rate = f64::from(how.rate);
    for i in 0..n {
        let g = f64::from(gradient[i]) * f64::from(how.unscale);
        let p = f64::from(state[i]) * (1.0 - rate * f64::from(how.decay));
        let moved = match how.rule {
            Rule::Momentum { momentum } => {
                let v = f64::from(momentum) * f64::from(state[n + i]) + g;
                next[n + i] = v;
                p - rate * v
            }
            Rule::Adam { beta1, beta2, eps, step } => {
                let (beta1, beta2) = (f64::from(beta1), f64::from(beta2));
                let m = beta1 * f64::from(state[n + i]) + (1.0 - beta1) * g;
                let v = beta2 * f64::from(state[2 * n + i]) + (1.0 - beta2) * g * g;
                next[n + i] = m;
                next[2 * n + i] = v;
                let m = m / (1.0 - beta1.powi(step as i32));
                let v = v / (1.0 - beta2.powi(step as i32));
                p - rate * m / (v.sqrt() + f64::from(eps))
            }
        };
        next[i] = moved.max(f64::from(how.floor));
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_worked_out_by_hand() {
        let how = Update { decay: 0.5, unscale: 2.0, ..Update::new(Rule::Momentum { momentum: 0.5 }, 0.5) };
        // g = 2, v = 0.5 * 4 + 2 = 4, p = 8 * 0.75 - 2.
        assert_eq!(update(&[8.0, 4.0], &[1.0], &how), [4.0, 4.0]);
        assert_eq!(update(&[8.0, 4.0], &[1.0], &Update { floor: 5.0, ..how }), [5.0, 4.0]);
        // Adam's first step is as long as the rate whatever the gradient.
        let next = update(&[1.0, 0.0, 0.0], &[-3.0], &Update::new(Rule::adam(1), 0.25));
        assert!((next[0] - 1.25).abs() < 1e-6 && (next[1] + 0.3).abs() < 1e-6, "{next:?}");
        assert!((next[2] - 0.009).abs() < 1e-6, "{next:?}");
    }
}
