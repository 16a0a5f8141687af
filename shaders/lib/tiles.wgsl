// One step along K of both operands into workgroup memory: `bn` rows of w, decoded, and `bm` rows of x, in quads from q0 on, as `elem`.
// Zeros beyond the rows and K.
//
// `scalars`: the tiles are arrays of numbers, which cooperative matrices are loaded from, else of vectors of four. `stride`: from row to row,
// in what they are arrays of.
//% set w_tile = ["wt", bn, "n_first + r < p.n && q < quads", "quad_weights(p.row0 + n_first + r, q)"]
//% set x_tile = ["xt", bm, "m_first + r < p.m", "x_quad(m_first + r, q)"]
//% for tile, rows, inside, value in [w_tile, x_tile]
//% for t in range((rows * kq + workgroup - 1) // workgroup)
{
    let i = tid + {{ t * workgroup }}u;
    //% if (t + 1) * workgroup > rows * kq
    if i < {{ rows * kq }}u
    //% endif
    {
        let r = i / {{ kq }}u;
        let q = q0 + i % {{ kq }}u;
        var v = vec4<{{ elem }}>();
        // Beyond K there may be no group to read.
        if {{ inside }} {
            v = vec4<{{ elem }}>({{ value }});
        }
        //% if scalars
        let at = r * {{ stride }}u + i % {{ kq }}u * 4u;
        {{ tile }}[at] = v.x;
        {{ tile }}[at + 1u] = v.y;
        {{ tile }}[at + 2u] = v.z;
        {{ tile }}[at + 3u] = v.w;
        //% else
        {{ tile }}[r * {{ stride }}u + i % {{ kq }}u] = v;
        //% endif
    }
}
//% endfor
//% endfor
