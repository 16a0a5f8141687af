// What WGSL's language extension packed_4x8_integer_dot_product has of lowbit's, for browsers without it: appended to a text that uses it.
// A word holds four bytes, the lowest first.

fn unpack4xU8(word: u32) -> vec4<u32> {
    return (vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u);
}

fn unpack4xI8(word: u32) -> vec4<i32> {
    return (vec4<i32>(bitcast<i32>(word)) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
}

fn dot4I8Packed(a: u32, b: u32) -> i32 {
    return dot(unpack4xI8(a), unpack4xI8(b));
}
