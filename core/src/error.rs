//! One error type for the whole program: what failed, what it means, what to do.

use std::{error::Error as StdError, fmt, io};

use crate::check::Remedy;

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure this is; decides the exit status and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Something that should have worked did not. Exit status 1.
    Failed,
    /// The user asked for something that makes no sense. Exit status 2.
    Usage,
    /// No backend can do what was asked on this kernel. Exit status 3.
    NoBackend,
    /// Privileges are missing. Exit status 4.
    NotPermitted,
    /// The pid, cgroup or unit does not exist (any more). Exit status 5.
    NoSuchTarget,
}

/// A failure in the three sentences that every error of this program has.
///
/// `Display` prints all of them: "cannot OPERATION OBJECT: SOURCE (ERRNO). MEANING REMEDY".
#[derive(Debug)]
pub struct Error {
    /// See [`ErrorKind`].
    pub kind: ErrorKind,
    /// What was tried, as an infinitive: "attach the program to".
    pub operation: String,
    /// On what: a path, a pid, a name.
    pub object: String,
    /// What the kernel answered, when it was the kernel that refused.
    pub source: Option<io::Error>,
    /// What that means here: one sentence with its full stop.
    pub meaning: String,
    /// What to do about it.
    pub remedy: Remedy,
}

impl Error {
    /// An error of `kind` that says what was tried on what; add the rest with the methods below.
    pub fn new(
        kind: ErrorKind,
        operation: impl Into<String>,
        object: impl fmt::Display,
    ) -> Self {
        Self {
            kind,
            operation: operation.into(),
            object: object.to_string(),
            source: None,
            meaning: String::new(),
            remedy: Remedy::None,
        }
    }

    /// [`ErrorKind::Failed`], or [`ErrorKind::NotPermitted`] when the errno says so.
    pub fn io(
        operation: impl Into<String>,
        object: impl fmt::Display,
        source: io::Error,
    ) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
            _ => ErrorKind::Failed,
        };
        let mut error = Self::new(kind, operation, object);
        error.source = Some(source);
        error
    }

    /// Adds the errno.
    #[must_use]
    pub fn because(mut self, source: impl Into<io::Error>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds the sentence on what it means here.
    #[must_use]
    pub fn meaning(mut self, meaning: impl Into<String>) -> Self {
        self.meaning = meaning.into();
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = remedy;
        self
    }

    /// Adds what to do in words of its own.
    #[must_use]
    pub fn advice(self, advice: impl Into<String>) -> Self {
        self.remedy(Remedy::Do(advice.into()))
    }

    /// The errno behind it, 0 when there is none.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.source.as_ref().and_then(io::Error::raw_os_error).unwrap_or(0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.operation)?;
        if !self.object.is_empty() {
            write!(f, " {}", self.object)?;
        }
        if let Some(source) = &self.source {
            write!(f, ": {}", describe(source))?;
        }
        f.write_str(".")?;
        if !self.meaning.is_empty() {
            write!(f, " {}", self.meaning)?;
        }
        let remedy = self.remedy.to_string();
        if !remedy.is_empty() {
            write!(f, " {remedy}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|e| e as &(dyn StdError + 'static))
    }
}

/// What the kernel answered, with the errno's name: "Invalid argument (EINVAL)" instead of
/// "Invalid argument (os error 22)".
#[must_use]
pub fn describe(source: &io::Error) -> String {
    let text = source.to_string();
    match errno_name(source.raw_os_error().unwrap_or(0)) {
        Some(name) => format!("{} ({name})", text.split(" (os error").next().unwrap_or(&text)),
        None => text,
    }
}

/// The symbolic name of the errnos this program meets (asm-generic/errno*.h).
#[must_use]
pub fn errno_name(errno: i32) -> Option<&'static str> {
    Some(match errno {
        1 => "EPERM",
        2 => "ENOENT",
        3 => "ESRCH",
        7 => "E2BIG",
        9 => "EBADF",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        16 => "EBUSY",
        17 => "EEXIST",
        19 => "ENODEV",
        20 => "ENOTDIR",
        22 => "EINVAL",
        24 => "EMFILE",
        28 => "ENOSPC",
        30 => "EROFS",
        38 => "ENOSYS",
        93 => "EPROTONOSUPPORT",
        95 => "EOPNOTSUPP",
        97 => "EAFNOSUPPORT",
        105 => "ENOBUFS",
        110 => "ETIMEDOUT",
        116 => "ESTALE",
        524 => "ENOTSUPP",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_sentences() {
        let error = Error::io(
            "attach cgroup_skb/ingress to",
            "/sys/fs/cgroup/x",
            io::Error::from_raw_os_error(22),
        )
        .meaning("The link flags are wrong.")
        .advice("Use flags 0.");
        assert_eq!(
            error.to_string(),
            "cannot attach cgroup_skb/ingress to /sys/fs/cgroup/x: Invalid argument (EINVAL). \
             The link flags are wrong. Use flags 0."
        );
    }
}
