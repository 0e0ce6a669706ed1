//! Whether a process ended for want of memory, of the machine or of a GPU.

use std::{fs, os::unix::process::ExitStatusExt as _, process::ExitStatus};

use rustix::process::Signal;

/// What programs say when they cannot have the memory that they want, in lowercase: the C library, C++, Python, CUDA and `PyTorch`,
/// llama.cpp and vLLM.
const WORDS: [&str; 14] = [
    "out of memory",
    "outofmemory",
    "out_of_memory",
    "out_of_device_memory",
    "cannot allocate memory",
    "bad_alloc",
    "memoryerror",
    "alloc_failed",
    "failed to allocate buffer",
    "failed to allocate compute",
    "unable to allocate",
    "no available memory for the cache blocks",
    "larger than the available kv cache memory",
    "less than desired gpu memory utilization",
];

/// What stands in lines that say one of these and mean no harm: advice, options, and pages that cannot be locked.
const HARMLESS: [&str; 3] = ["mlock", "consider decreasing", "onoutofmemoryerror"];

/// How much of the end of what was printed is looked at, in bytes: a traceback stands after the words that count.
const END_BYTES_MAX: usize = 16 * 1024;

/// The code of a shell whose last program was killed outright.
const KILLED_IN_A_SHELL: i32 = 128 + 9;

/// Returns how many processes the kernel has killed for want of memory since boot; `None` where it does not say.
pub(crate) fn oom_kills() -> Option<u64> {
    killed(&fs::read_to_string("/proc/vmstat").ok()?)
}

/// Returns the number of such kills in the text of `/proc/vmstat`.
fn killed(vmstat: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// Returns whether what ended like this, and printed `output`, ended for want of memory; `kills` are those of the kernel before it
/// began and after it ended.
///
/// By its own words, or because it was killed outright while the kernel killed something for that reason.
pub(super) fn was_short(status: ExitStatus, output: &[u8], kills: (Option<u64>, Option<u64>)) -> bool {
    let is_killed = status.signal() == Some(Signal::KILL.as_raw()) || status.code() == Some(KILLED_IN_A_SHELL);
    let rose = matches!(kills, (Some(before), Some(after)) if after > before);
    let end = String::from_utf8_lossy(&output[output.len().saturating_sub(END_BYTES_MAX)..]).to_lowercase();
    let says = |line: &str| {
        let has = |words: &[&str]| words.iter().any(|words| line.contains(words));
        has(&WORDS) && !has(&HARMLESS)
    };
    !status.success() && ((is_killed && rose) || end.lines().any(says))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `code` is an exit code; a negative one is the signal that ended it.
    #[track_caller]
    fn check(code: i32, output: &str, kills: (Option<u64>, Option<u64>), expected: bool) {
        let status = ExitStatus::from_raw(if code < 0 { -code } else { code << 8 });
        assert_eq!(was_short(status, output.as_bytes(), kills), expected, "{code} {output:?} {kills:?}");
    }

    #[test]
    fn what_programs_say_when_memory_is_short_is_understood() {
        let none = (Some(3), Some(3));
        for said in [
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 81920.00 MiB on device 0: cudaMalloc failed: out of memory",
            "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
            "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.",
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
            "ValueError: Free memory on device cuda:0 (13.33/22.07 GiB) on startup is less than desired GPU memory utilization",
            "terminate called after throwing an instance of 'std::bad_alloc'",
            "MemoryError",
            "fork: Cannot allocate memory",
            "cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED",
        ] {
            check(1, said, none, true);
            check(-6, said, none, true);
            check(0, said, none, false);
        }
        for said in [
            "",
            "address already in use",
            "memory: 12 GiB",
            "failed to allocate port 80",
            "segmentation fault",
            "warning: failed to mlock 1073741824-byte buffer: Cannot allocate memory",
            "If you are running out of memory, consider decreasing `gpu_memory_utilization`",
            "java -XX:+HeapDumpOnOutOfMemoryError",
        ] {
            check(1, said, none, false);
        }
        let long_ago = format!("out of memory\n{}", "\u{e9}".repeat(END_BYTES_MAX));
        check(1, &long_ago, none, false);
        check(1, &format!("out of memory\n{}", "  File \"x.py\"\n".repeat(900)), none, true);
    }

    #[test]
    fn what_is_killed_is_short_of_memory_where_the_kernel_says_that_it_killed_for_that() {
        check(-9, "", (Some(3), Some(4)), true);
        check(137, "", (Some(3), Some(4)), true);
        check(-9, "", (Some(3), Some(3)), false);
        check(-15, "", (Some(3), Some(4)), false);
        check(1, "", (Some(3), Some(4)), false);
        for unknown in [(None, Some(4)), (Some(3), None), (None, None), (Some(4), Some(0))] {
            check(-9, "", unknown, false);
        }
    }

    #[test]
    fn kills_are_read_from_their_own_line() {
        assert_eq!(killed("pgfault 12\noom_kill 3\noom_kill_disable 9\n"), Some(3));
        for odd in ["", "oom_kill", "oom_kill x", "xoom_kill 3"] {
            assert_eq!(killed(odd), None, "{odd:?}");
        }
    }
}
