//! Which processes there are, by the kernel's account of them. Touches the kernel: `/proc`.

/// Whether `/proc` shows processes by the numbers they have here. One of another PID
/// namespace shows somebody else instead, and what is wrong with him is no hole of ours.
pub fn sees_processes() -> Result<(), String> {
    let own = std::process::id().to_string();
    match std::fs::read_link("/proc/self") {
        Ok(shown) if shown.as_os_str() == own.as_str() => Ok(()),
        Ok(_) => Err("/proc is another PID namespace's".to_owned()),
        Err(_) => Err("there is no /proc".to_owned()),
    }
}
