//! Every generated shader: parsed and validated by naga.
use lowbit::kernels::*;
use lowbit::scheme::preset::samples;

#[test]
fn tmp_all_validate() {
    let mut n = 0;
    let mut failed = 0;
    for scheme in samples() {
        for tier in Tier::ALL {
            for f in [
                dequantize::shaders,
                matvec::shaders,
                matmul::shaders,
                quantize::scales_shaders,
                quantize::codes_shaders,
                convert::shaders,
            ] {
                let shaders = match f(&scheme, tier) {
                    Ok(s) => s,
                    Err(e) => {
                        println!("{scheme}: {e}");
                        failed += 1;
                        if failed > 3 {
                            panic!()
                        }
                        continue;
                    }
                };
                for s in shaders {
                    n += 1;
                    let caps = naga::valid::Capabilities::SHADER_FLOAT16
                        | naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32
                        | naga::valid::Capabilities::SUBGROUP;
                    let options =
                        naga::front::wgsl::Options { parse_doc_comments: false, capabilities: caps };
                    let module = match naga::front::wgsl::Frontend::new_with_options(options).parse(&s.wgsl) {
                        Ok(m) => m,
                        Err(e) => {
                            println!("{} {}\n{}", s.kernel, s.key, e.emit_to_string(&s.wgsl));
                            failed += 1;
                            if failed > 3 {
                                std::fs::write("/tmp/bad.wgsl", &s.wgsl).unwrap();
                                panic!()
                            }
                            continue;
                        }
                    };
                    if let Err(e) = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), caps)
                        .validate(&module)
                    {
                        println!("{} {}\n{}", s.kernel, s.key, e.emit_to_string(&s.wgsl));
                        failed += 1;
                        if failed > 3 {
                            std::fs::write("/tmp/bad.wgsl", &s.wgsl).unwrap();
                            panic!()
                        }
                    }
                }
            }
        }
    }
    println!("{n} shaders");
    assert_eq!(failed, 0);
}
