//! Where the hierarchy is mounted, and what a path means in it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::tree;
use crate::error::{Error, ErrorKind, Result};

/// The mounted cgroup v2 hierarchy (pure v2: /sys/fs/cgroup; hybrid: /sys/fs/cgroup/unified).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    /// The mount point.
    pub mount: PathBuf,
    /// The cgroup that the mount point shows, as /proc/PID/cgroup spells it ("/" unless a
    /// cgroup namespace or a bind mount).
    pub root: PathBuf,
}

/// What systemd calls its units (systemd.unit(5)); a name without one of these is a service.
const UNIT_SUFFIXES: [&str; 5] = [".service", ".scope", ".slice", ".socket", ".mount"];

impl Cgroups {
    /// Finds the mount in the text of /proc/self/mountinfo.
    #[must_use]
    pub fn from_mountinfo(text: &str) -> Option<Self> {
        Self::candidates(text).into_iter().next()
    }

    /// All cgroup2 mounts of /proc/self/mountinfo, the best first: one that shows the whole
    /// hierarchy and can be written.
    #[must_use]
    pub fn candidates(text: &str) -> Vec<Self> {
        let mut mounts: Vec<(bool, bool, Self)> =
            text.lines().filter_map(parse_mount).collect();
        // The sort is stable: among equals the order of the file holds.
        mounts.sort_by_key(|(whole, writable, _)| (!whole, !writable));
        mounts.into_iter().map(|(_, _, found)| found).collect()
    }

    /// The directory of a process's cgroup, from the text of /proc/PID/cgroup.
    pub fn path_of(&self, proc_pid_cgroup: &str) -> Result<PathBuf> {
        let error = |object: &str, meaning: &str| {
            Error::new(ErrorKind::Failed, "find the cgroup", object.to_owned()).meaning(meaning)
        };
        let path = proc_pid_cgroup
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .ok_or_else(|| error("of the process", "It has no cgroup v2 (no line 0::)."))?;
        if path.ends_with(" (deleted)") {
            let mut error = error(path, "The cgroup was removed; the process is ending.");
            error.kind = ErrorKind::NoSuchTarget;
            return Err(error);
        }
        self.below_mount(Path::new(path)).ok_or_else(|| {
            error(
                path,
                "It lies outside the part of the hierarchy that is mounted here (a cgroup \
                 namespace or a bind mount).",
            )
            .advice("Run chadthrottle outside the container.")
        })
    }

    /// Checks that `path` is a cgroup v2 directory; also takes "/system.slice/x" relative to
    /// the mount as /proc/PID/cgroup and systemctl spell it.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf> {
        let spelled = self.below_mount(&Path::new("/").join(path));
        let found = [Some(path.to_owned()), spelled]
            .into_iter()
            .flatten()
            .filter_map(|candidate| fs::canonicalize(candidate).ok())
            .find(|candidate| candidate.is_dir() && tree::is_cgroup2(candidate))
            .ok_or_else(|| self.not_a_cgroup(path))?;
        if found.starts_with(&self.mount) {
            return Ok(found);
        }
        // The same hierarchy, mounted twice: one cgroup shall have one path.
        Ok(self.find(tree::id(&found)?).unwrap_or(found))
    }

    /// The cgroup of a systemd unit ("x" means "x.service"), searched by name.
    pub fn unit(&self, name: &str) -> Result<PathBuf> {
        let error = |kind| Error::new(kind, "find unit", name);
        if name.is_empty() || name.contains('/') {
            return Err(error(ErrorKind::Usage)
                .meaning("A unit has a name like nginx or nginx.service.")
                .advice("Use --cgroup for a path."));
        }
        let known = UNIT_SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
        let full = if known { name.to_owned() } else { format!("{name}.service") };
        let mut found = Vec::new();
        tree::walk(&self.mount, &mut |entry| {
            if entry.file_name().to_str() == Some(&full) {
                found.push(entry.path());
            }
        });
        found.sort();
        match found.as_slice() {
            [] => Err(error(ErrorKind::NoSuchTarget)
                .meaning(format!("No cgroup is called {full}: no such unit runs here."))
                .advice(format!("See systemctl status {full}."))),
            [path] => Ok(path.clone()),
            several => {
                let list: Vec<_> = several.iter().map(|p| p.display().to_string()).collect();
                Err(error(ErrorKind::Usage)
                    .meaning(format!("Several cgroups have this name: {}.", list.join(", ")))
                    .advice("Name one of them with --cgroup."))
            }
        }
    }

    /// The directory with this id, searched in the tree.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<PathBuf> {
        use std::os::unix::fs::DirEntryExt;

        if tree::id(&self.mount).ok() == Some(id) {
            return Some(self.mount.clone());
        }
        let mut found = None;
        tree::walk(&self.mount, &mut |entry| {
            if entry.ino() == id {
                found = Some(entry.path());
            }
        });
        found
    }

    /// The directory of a cgroup that is spelled as in /proc/PID/cgroup.
    fn below_mount(&self, path: &Path) -> Option<PathBuf> {
        let rest = path.strip_prefix(&self.root).ok()?;
        // "/../x" is how a cgroup namespace shows what lies outside of it.
        let climbs = rest.components().any(|part| part == std::path::Component::ParentDir);
        // Joining an empty path would leave a slash at the end.
        let whole = rest.as_os_str().is_empty();
        (!climbs).then(|| if whole { self.mount.clone() } else { self.mount.join(rest) })
    }

    fn not_a_cgroup(&self, path: &Path) -> Error {
        let error = |kind| Error::new(kind, "use cgroup", path.display());
        let list = format!("See the cgroups with: find {} -type d.", self.mount.display());
        let data = match fs::metadata(path) {
            Ok(data) => data,
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                return error(ErrorKind::NoSuchTarget)
                    .because(source)
                    .meaning("There is no such cgroup.")
                    .advice(list);
            }
            Err(source) => {
                let mut wrapped = Error::io("use cgroup", path.display(), source);
                wrapped.remedy = crate::check::Remedy::Do(list);
                return wrapped;
            }
        };
        let meaning = match (data.is_dir(), tree::is_cgroup1(path)) {
            (true, true) => {
                "It is a cgroup v1 directory; only cgroup v2 tells whose packets are whose."
            }
            (true, false) => "It is a directory, but not of cgroup v2.",
            (false, _) => "It is a file; a cgroup is a directory.",
        };
        error(ErrorKind::Usage).meaning(meaning).advice(list)
    }
}

/// Whether it shows the whole hierarchy, whether it can be written, and where it is.
fn parse_mount(line: &str) -> Option<(bool, bool, Cgroups)> {
    // 31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw (proc(5)); the
    // optional fields before the dash vary in number.
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    if after.next()? != "cgroup2" {
        return None;
    }
    let writable = |options: &str| options.split(',').any(|option| option == "rw");
    let super_writable = after.nth(1).is_none_or(writable);
    let mut fields = before.split(' ').skip(3);
    let root = unescape(fields.next()?);
    let mount = unescape(fields.next()?);
    let mount_writable = writable(fields.next()?);
    let found = Cgroups { mount: mount.into(), root: PathBuf::from(root) };
    Some((found.root == Path::new("/"), mount_writable && super_writable, found))
}

/// Decodes the octal escapes of mountinfo: "\040" is a space.
fn unescape(field: &str) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;

    let bytes = field.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = field.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let byte = digits.and_then(|octal| u8::from_str_radix(octal, 8).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURE: &str = "\
24 1 0:22 / /sys rw,nosuid - sysfs sysfs rw
31 24 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate";
    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    fn cgroups(mount: &str, root: &str) -> Cgroups {
        Cgroups { mount: mount.into(), root: root.into() }
    }

    #[test]
    fn finds_the_mount() {
        let v1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu";
        let read_only =
            "40 1 0:38 / /ro ro - cgroup2 none rw\n41 1 0:38 / /rw rw - cgroup2 none rw";
        let part =
            "40 1 0:38 /x /part rw - cgroup2 none rw\n41 1 0:38 / /all ro - cgroup2 none ro";
        let namespace = "40 1 0:38 /docker/ab /sys/fs/cgroup ro master:5 - cgroup2 cgroup rw";
        let escaped = r"40 1 0:38 /a\134b /mnt/my\040cgroups\011 rw a:1 b:2 - cgroup2 none rw";
        for (text, expected) in [
            (PURE, Some(cgroups("/sys/fs/cgroup", "/"))),
            (HYBRID, Some(cgroups("/sys/fs/cgroup/unified", "/"))),
            (v1, None),
            ("", None),
            (read_only, Some(cgroups("/rw", "/"))),
            (part, Some(cgroups("/all", "/"))),
            (namespace, Some(cgroups("/sys/fs/cgroup", "/docker/ab"))),
            (escaped, Some(cgroups("/mnt/my cgroups\t", r"/a\b"))),
        ] {
            assert_eq!(Cgroups::from_mountinfo(text), expected, "{text}");
        }
    }

    #[test]
    fn finds_the_cgroup_of_a_process() {
        let whole = cgroups("/sys/fs/cgroup", "/");
        let part = cgroups("/mnt", "/docker/ab");
        let path = |cgroups: &Cgroups, text: &str| cgroups.path_of(text).ok();
        let hybrid = "9:name=systemd:/x\n4:memory:/y\n0::/user.slice/a.scope\n";
        assert_eq!(path(&whole, hybrid), Some("/sys/fs/cgroup/user.slice/a.scope".into()));
        assert_eq!(path(&whole, "0::/\n"), Some("/sys/fs/cgroup".into()));
        assert_eq!(path(&part, "0::/docker/ab/init\n"), Some("/mnt/init".into()));
        assert_eq!(path(&part, "0::/docker/ab\n"), Some("/mnt".into()));
        assert_eq!(path(&part, "0::/docker/abc\n"), None);
        assert_eq!(path(&whole, "0::/../other\n"), None);
        assert_eq!(path(&whole, "4:memory:/y\n"), None);
        let gone = whole.path_of("0::/x (deleted)\n").unwrap_err();
        assert_eq!(gone.kind, ErrorKind::NoSuchTarget);
    }

    #[test]
    fn refuses_what_is_no_cgroup() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let whole = cgroups("/nowhere", "/");
        let refuse = |path: &Path| whole.resolve(path).unwrap_err();
        assert_eq!(refuse(Path::new("/no/such")).kind, ErrorKind::NoSuchTarget);
        assert!(refuse(directory.path()).to_string().contains("not of cgroup v2"));
        assert!(refuse(&file).to_string().contains("a cgroup is a directory"));
    }

    #[test]
    fn finds_units_by_name() {
        let tree = tempfile::tempdir().unwrap();
        for path in ["system.slice/nginx.service", "a/dbus.service", "b/dbus.service"] {
            fs::create_dir_all(tree.path().join(path)).unwrap();
        }
        let cgroups = cgroups(tree.path().to_str().unwrap(), "/");
        let nginx = tree.path().join("system.slice/nginx.service");
        assert_eq!(cgroups.unit("nginx").unwrap(), nginx);
        assert_eq!(cgroups.unit("nginx.service").unwrap(), nginx);
        assert_eq!(cgroups.unit("system.slice").unwrap(), tree.path().join("system.slice"));
        assert_eq!(cgroups.find(tree::id(&nginx).unwrap()), Some(nginx));
        for (name, kind) in [
            ("apache", ErrorKind::NoSuchTarget),
            ("nginx.scope", ErrorKind::NoSuchTarget),
            ("dbus", ErrorKind::Usage),
            ("a/b", ErrorKind::Usage),
            ("", ErrorKind::Usage),
        ] {
            assert_eq!(cgroups.unit(name).unwrap_err().kind, kind, "{name}");
        }
        assert!(cgroups.unit("dbus").unwrap_err().to_string().contains("b/dbus.service"));
    }
}
