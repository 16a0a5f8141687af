// The number of a workgroup in a dispatch that the host folded from a row into x and y (`fold_workgroups`). The last row
// may be longer than needed: a kernel compares the number with its own count.
fn linear_workgroup(workgroup: vec3<u32>, workgroups: vec3<u32>) -> u32 {
    return workgroup.x + workgroup.y * workgroups.x;
}
