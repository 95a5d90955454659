//! What the engine runs on: the GPU it took, or the CPU and its instruction sets.

use whisper_rs::whisper_rs_sys as sys;

use super::super::EngineError;
use super::Device;

/// Whether this build can use a GPU at all.
pub const GPU_BUILD: bool = cfg!(any(feature = "cuda", feature = "vulkan", feature = "metal"));

/// What the engine runs on, for people, once a model is loaded. Asking earlier could end the process: some drivers
/// throw where there is no device, and only loading survives that.
#[expect(unsafe_code, reason = "the wrapper does not tell which device the engine took")]
pub(super) fn running_on(wanted: Device) -> Result<String, EngineError> {
    let mut gpus = Vec::new();
    if GPU_BUILD && wanted != Device::Cpu {
        // SAFETY: reads the registry that loading a model has filled; the strings are static in the engine.
        unsafe {
            for n in 0..sys::ggml_backend_dev_count() {
                let device = sys::ggml_backend_dev_get(n);
                if sys::ggml_backend_dev_type(device)
                    == sys::ggml_backend_dev_type_GGML_BACKEND_DEVICE_TYPE_GPU
                {
                    let name = std::ffi::CStr::from_ptr(sys::ggml_backend_dev_description(device));
                    gpus.push(name.to_string_lossy().into_owned());
                }
            }
        }
    }
    let cpu = || format!("cpu ({})", instructions().join(" "));
    match wanted {
        Device::Cpu => Ok(cpu()),
        Device::Auto => match gpus.first() {
            Some(name) => Ok(format!("gpu:0 ({name})")),
            None => {
                if GPU_BUILD {
                    tracing::warn!("no GPU was found; running on the CPU");
                }
                Ok(cpu())
            }
        },
        Device::Gpu(n) => match gpus.get(n as usize) {
            Some(name) => Ok(format!("gpu:{n} ({name})")),
            None => Err(EngineError::Load(format!("there is no GPU {n}: {} found", gpus.len()))),
        },
    }
}

/// The instruction sets the engine was compiled for, as it names them itself.
fn instructions() -> Vec<String> {
    whisper_rs::print_system_info()
        .split([':', '|'])
        .filter_map(|part| part.trim().strip_suffix(" = 1").map(str::to_owned))
        .collect()
}

/// Has large blocks given back to the system when they are freed. Decoding states are made and dropped all the
/// time, and glibc, once it has seen blocks of their size freed, would keep them: 30 MB with the bundled model.
pub(super) fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "a setting of the C library")]
    // SAFETY: takes two numbers and no pointers, and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Says in a sentence what would otherwise be an illegal instruction.
pub(super) fn check_instructions() -> Result<(), EngineError> {
    #[cfg(target_arch = "x86_64")]
    for (name, there) in [
        ("AVX", std::is_x86_feature_detected!("avx")),
        ("AVX2", std::is_x86_feature_detected!("avx2")),
        ("FMA", std::is_x86_feature_detected!("fma")),
        ("F16C", std::is_x86_feature_detected!("f16c")),
        ("AVX512", std::is_x86_feature_detected!("avx512f")),
    ] {
        if !there && instructions().iter().any(|known| known == name) {
            return Err(EngineError::Load(format!(
                "this program was compiled for processors with {name}, which this one lacks: build it on this \
                 machine, with the instruction set turned off in .cargo/config.toml"
            )));
        }
    }
    Ok(())
}
