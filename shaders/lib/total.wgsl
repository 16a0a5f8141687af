// The sum of what an entry of a row has: the row is vectors of four, or where D is no multiple of 4 (`ragged`) single numbers.
fn total(v: {{ number }}) -> f32 {
    //% if ragged
    return v;
    //% else
    return (v.x + v.y) + (v.z + v.w);
    //% endif
}
