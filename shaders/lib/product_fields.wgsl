    // Rows of x; first column of y, columns of y, first weight row of this dispatch, number of weight rows.
    m: u32,
    n0: u32,
    n_total: u32,
    row0: u32,
    n: u32,
    bias_at: u32,
    residual_at: u32,
    // 1 for ReLU.
    relu: u32,
    // Split sums: chunks of 32 columns of a part, and how many parts.
    k_part: u32,
    parts: u32,
