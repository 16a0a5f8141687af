// The chunks of 32 columns that a workgroup sums: `first_chunk` to `chunks`; all of them, or one part of K if `split`.
//% if split
part = wid.z;
// Not of `part`: what a private variable holds counts as different in each thread, and barriers follow.
let first_chunk = wid.z * p.k_part;
let chunks = min((p.k + 31u) / 32u, first_chunk + p.k_part);
//% else
let first_chunk = 0u;
let chunks = (p.k + 31u) / 32u;
//% endif
