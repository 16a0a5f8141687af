// The head of a kernel whose teams of `lanes` threads own weight rows: `team` within the workgroup and `lane` within the team, a subgroup if
// `subgroups`.
@compute @workgroup_size({{ workgroup }})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    //% if subgroups
    @builtin(subgroup_id) team: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    //% endif
    @builtin(local_invocation_index) tid: u32,
) {
    //% if not subgroups
    let team = tid / {{ lanes }}u;
    let lane = tid % {{ lanes }}u;
    //% endif
