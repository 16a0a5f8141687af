//! The oracle of functions between layers and of their slopes, in f64.
//!
//! ```text
//! y = f(x)        backward: dy * f'(x)        ReLU's slope at 0 is 0
//! ```

use crate::product::Function;

/// The normal distribution's share below x.
fn below(x: f64) -> f64 {
    libm::erfc(-x / std::f64::consts::SQRT_2) / 2.0
}

fn value(function: Function, x: f64) -> f64 {
    match function {
        Function::Identity => x,
        Function::Relu => x.max(0.0),
        Function::Gelu => x * below(x),
        Function::Silu => x / (1.0 + (-x).exp()),
    }
}

fn slope(function: Function, x: f64) -> f64 {
    match function {
        Function::Identity => 1.0,
        Function::Relu => f64::from(u8::from(x > 0.0)),
        Function::Gelu => below(x) + x * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt(),
        Function::Silu => {
            let share = 1.0 / (1.0 + (-x).exp());
            share * (1.0 + x * (1.0 - share))
        }
    }
}

/// `f(x)`; with dy the gradient of x instead.
pub fn activate(x: &[f32], dy: Option<&[f32]>, function: Function) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for i in 0..x.len() {
        let x = f64::from(x[i]);
        y.push(match dy {
            None => value(function, x),
            Some(dy) => f64::from(dy[i]) * slope(function, x),
        });
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_functions() {
        let x = [-3.0f32, -0.75, -0.1, 0.2, 1.5, 4.0];
        for function in Function::ALL {
            let slopes = activate(&x, Some(&[2.0; 6]), function);
            for (x, found) in x.iter().map(|&x| f64::from(x)).zip(slopes) {
                let h = 1e-5;
                let wanted = (value(function, x + h) - value(function, x - h)) / h;
                assert!((found - wanted).abs() < 1e-8, "{function:?} {x}: {found} {wanted}");
            }
        }
        assert_eq!(activate(&[-1.0, 0.0, 2.0], Some(&[1.0; 3]), Function::Relu), [0.0, 0.0, 1.0]);
    }
}
