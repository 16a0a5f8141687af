    // x as int8: its first row, vec4<u32> from row to row of codes, word where scales begin, scales of a row, zero-point as an i32's bits.
    x_row0: u32,
    x_stride: u32,
    x_scales: u32,
    x_groups: u32,
    x_zero: u32,
    // Static: the scale of x.
    x_scale: f32,
    // y as int8: its first row, words from row to row, scale and zero-point.
    y_row0: u32,
    y_stride: u32,
    y_zero: u32,
    y_scale: f32,
