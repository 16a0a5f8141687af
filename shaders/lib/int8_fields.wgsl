    // Dense rows of this dispatch, and the row of int8 that the first of them is.
    rows: u32,
    row0: u32,
    k: u32,
    // Words from row to row of codes, word where scales begin, scales of a row, values per scale.
    stride: u32,
    scales: u32,
    groups: u32,
    group: u32,
    // Static: the scale, and the zero-point as the bits of an i32.
    scale: f32,
    zero: u32,
    // The bits of a NaN, which a text cannot have.
    nan: u32,
