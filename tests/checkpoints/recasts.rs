//! Exact changes of scheme: what both sides decode to, and what is refused because it would be rounded.

use half::{bf16, f16};
use lowbit::file::recast::{forms, recast};
use lowbit::scheme::{PlaneKind, Scale, ScaleType, Scheme, Zero};
use lowbit::{PackedTensor, reference};

fn write(value: f32, kind: ScaleType, to: &mut Vec<u8>) {
    match kind {
        ScaleType::F16 => to.extend(f16::from_f32(value).to_le_bytes()),
        ScaleType::Bf16 => to.extend(bf16::from_f32(value).to_le_bytes()),
        _ => to.extend(value.to_le_bytes()),
    }
}

/// Random codes; scales of both signs with few bits, so that products with zero-points are numbers of the type.
fn filled(scheme: &str, shape: [usize; 2]) -> PackedTensor {
    let scheme: Scheme = scheme.parse().unwrap();
    let mut w = PackedTensor::zeroed(scheme, shape).unwrap();
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    for row in 0..shape[0] {
        for column in 0..shape[1] {
            w.set_code(row, column, (next() % (1 << scheme.bits)) as u8);
        }
    }
    let Scale::Direct(kind) = scheme.scale else { panic!("{scheme}") };
    let groups = w.plane(PlaneKind::Scales).len() / kind.size();
    let (mut scales, mut zeros) = (Vec::new(), Vec::new());
    for _ in 0..groups {
        let scale = (next() % 15) as f32 / 64.0 - 7.5 / 64.0;
        match kind {
            ScaleType::E8M0 | ScaleType::E8M0Half => scales.push((120 + next() % 16) as u8),
            _ => write(scale, kind, &mut scales),
        }
        match scheme.zero {
            Zero::Point => zeros.push((next() % (1 << scheme.bits)) as u8),
            Zero::Bias => write(-scale * (next() % 8) as f32, kind, &mut zeros),
            _ => {}
        }
    }
    w.plane_mut(PlaneKind::Scales).copy_from_slice(&scales);
    w.plane_mut(PlaneKind::Zeros).copy_from_slice(&zeros);
    w
}

/// Recasts and compares what both decode to.
fn exact(from: &str, to: &str) -> PackedTensor {
    let w = filled(from, [3, 128]);
    let made = recast(&w, to.parse().unwrap()).unwrap_or_else(|e| panic!("{from} as {to}: {e}"));
    // Plus zero makes one zero of both.
    let decoded = |w: &PackedTensor| -> Vec<u32> {
        reference::dequantize(w).iter().map(|v| (v + 0.0).to_bits()).collect()
    };
    assert_eq!(decoded(&w), decoded(&made), "{from} as {to}");
    assert!(decoded(&w).iter().any(|v| *v != 0));
    made
}

#[test]
fn numbers_stay_the_same() {
    for (from, to) in [
        ("q4_0", "int4-g32"),
        ("int4-g32", "q4_0"),
        ("q5_0", "int5-g32"),
        ("q8_0", "int8-g32"),
        ("q4_1", "int4-g32-bias"),
        ("int5-g32-bias", "q5_1"),
        ("q4_0", "int4-g32-bias"),
        ("q8_0", "int8-g32-bias"),
        ("q4_0", "int4-g32-asym"),
        ("int4-g32-asym", "int4-g32-bias"),
        ("int4-g32-bias", "int4-g32-asym"),
        ("int4-g128", "q4_0"),
        ("int4-g128-asym", "q4_1"),
        ("int3-row-asym", "int3-g64-asym-f32"),
        ("int4-tensor", "int4-row"),
        ("int4-g32-bf16", "int4-g32"),
        ("int4-g32", "int4-g32-asym-f32"),
        ("int4-g64-perm", "int4-g32-asym-perm"),
        ("mxfp4", "fp4-g32-e8m0"),
        ("fp4-g32-e8m0", "mxfp4"),
    ] {
        let made = exact(from, to);
        // And back, where groups and types are no finer.
        if let Ok(back) = recast(&made, from.parse().unwrap()) {
            assert_eq!(back, filled(from, [3, 128]), "{to} as {from}");
        }
    }
}

#[test]
fn middles_come_back_from_zero_points_and_biases() {
    let middle = filled("q4_0", [3, 128]);
    for through in ["int4-g32-asym", "int4-g32-bias", "int4-g32-f32"] {
        let made = recast(&middle, through.parse().unwrap()).unwrap();
        assert_eq!(recast(&made, "q4_0".parse().unwrap()).unwrap(), middle, "{through}");
    }
}

#[test]
fn what_would_be_rounded_is_refused() {
    for (from, to) in [
        ("int4-g32-asym", "q4_0"),
        ("int4-g32", "int4-g64"),
        ("int4-g32", "int5-g32"),
        ("int4-g32", "int4-g32-fzero"),
        ("int4-g32", "int4-g32-perm"),
        ("int4-g20", "int4-g32"),
        ("int4-row", "int4-tensor"),
        ("mxfp4", "q4_0"),
        ("nf4-g32", "fp4-g32"),
    ] {
        let w = filled(from, [3, 640]);
        let message = recast(&w, to.parse().unwrap()).unwrap_err().to_string();
        assert!(message.contains(&format!("{from} as {to}")), "{message}");
    }
    // A scale of eleven bits: fifteen times it has more than f16 has, and it has more than bf16 has.
    let mut w = filled("int4-g32-asym", [1, 32]);
    w.plane_mut(PlaneKind::Scales).copy_from_slice(&f16::from_bits(0x2fff).to_le_bytes());
    w.plane_mut(PlaneKind::Zeros).copy_from_slice(&[15]);
    for to in ["int4-g32-bias", "int4-g32-asym-bf16"] {
        let message = recast(&w, to.parse().unwrap()).unwrap_err().to_string();
        assert!(message.contains("group 0 of row 0"), "{message}");
    }
}

#[test]
fn forms_lead_with_the_scheme_and_hold_the_recasts() {
    for (scheme, form) in [
        ("int4-g128", "q4_0"),
        ("q4_1", "int4-g32-bias"),
        ("mxfp4", "fp4-g32-e8m0"),
        ("fp4-g32-e8m0", "mxfp4"),
        ("int8-row", "q8_0"),
    ] {
        let scheme: Scheme = scheme.parse().unwrap();
        let found = forms(&scheme);
        assert_eq!(found[0], scheme);
        assert!(found.contains(&form.parse().unwrap()), "{scheme}: {form}");
    }
}
