//! How this kernel was built, and what each backend needs of it.

use std::collections::HashMap;

use procfs::ConfigSetting;
use serde::Serialize;

use crate::{
    backend::BackendId,
    check::{Check, Remedy, Verdict},
};

/// The options of this kernel, from /proc/config.gz or /boot/config-RELEASE.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Without `CONFIG_`; `None` when neither file can be read.
    settings: Option<HashMap<String, ConfigSetting>>,
}

/// How one option is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Setting {
    /// Built in.
    #[serde(rename = "y")]
    BuiltIn,
    /// As a module.
    #[serde(rename = "m")]
    Module,
    /// Not at all.
    #[serde(rename = "n")]
    Off,
}

/// What a backend cannot do without, and what it is better with.
#[derive(Debug)]
pub struct Needs {
    /// Who needs it.
    pub backend: BackendId,
    /// Without one of these it cannot work.
    pub required: &'static [&'static str],
    /// Without one of these something is done in another way.
    pub better: &'static [&'static str],
}

/// The options of each backend.
pub const NEEDS: [Needs; 3] = [
    Needs {
        backend: BackendId::Ebpf,
        required: &["CGROUPS", "BPF", "BPF_SYSCALL", "CGROUP_BPF", "INET"],
        better: &["BPF_JIT", "DEBUG_INFO_BTF", "BPF_EVENTS", "INET_DIAG"],
    },
    Needs {
        backend: BackendId::Tc,
        required: &[
            "NET_SCHED",
            "NET_SCH_HTB",
            "NET_SCH_INGRESS",
            "NET_CLS_U32",
            "NET_CLS_ACT",
            "NET_ACT_MIRRED",
            "IFB",
            "INET_DIAG",
        ],
        better: &["NET_ACT_CTINFO", "NF_CONNTRACK_MARK", "NFT_SOCKET", "NET_SCH_FQ_CODEL"],
    },
    Needs {
        backend: BackendId::Nft,
        required: &["NF_TABLES", "NF_TABLES_INET", "NFT_SOCKET", "NFT_LIMIT", "INET_DIAG"],
        better: &["NF_TABLES_NETDEV", "NETFILTER_EGRESS", "NFT_CT"],
    },
];

impl Config {
    /// Reads it.
    #[must_use]
    pub fn read() -> Self {
        let settings = procfs::kernel_config().ok().map(|all| {
            let strip = |name: String| name.strip_prefix("CONFIG_").map(str::to_owned);
            all.into_iter().filter_map(|(name, value)| Some((strip(name)?, value))).collect()
        });
        Self { settings }
    }

    /// One of these options and nothing else, for tests.
    #[must_use]
    pub fn with(options: &[(&str, bool)]) -> Self {
        let set = options.iter().filter(|(_, set)| *set);
        let settings = set.map(|(name, _)| ((*name).to_owned(), ConfigSetting::Yes));
        Self { settings: Some(settings.collect()) }
    }

    /// Whether it could be read.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.settings.is_some()
    }

    /// How an option (without `CONFIG_`) is set; `None` when that is not known.
    #[must_use]
    pub fn get(&self, option: &str) -> Option<Setting> {
        Some(match self.settings.as_ref()?.get(option) {
            Some(ConfigSetting::Module) => Setting::Module,
            Some(ConfigSetting::Yes | ConfigSetting::Value(_)) => Setting::BuiltIn,
            None => Setting::Off,
        })
    }

    /// Whether an option is built in or a module; `None` when that is not known.
    #[must_use]
    pub fn is_set(&self, option: &str) -> Option<bool> {
        self.get(option).map(|setting| setting != Setting::Off)
    }

    /// The check of one backend's options.
    #[must_use]
    pub fn check(&self, needs: &Needs) -> Check {
        let name = match needs.backend {
            BackendId::Ebpf => "config-ebpf",
            BackendId::Tc => "config-tc",
            BackendId::Nft => "config-nft",
        };
        let off = |options: &[&str]| {
            let off = options.iter().filter(|option| self.is_set(option) == Some(false));
            off.map(|option| format!("CONFIG_{option}")).collect::<Vec<_>>().join(", ")
        };
        let (missing, without) = (off(needs.required), off(needs.better));
        let (verdict, remedy) = match (self.is_known(), missing.is_empty()) {
            (false, _) => (Verdict::Inconclusive, Remedy::None),
            (true, true) => (Verdict::Works, Remedy::None),
            (true, false) => (Verdict::Missing, Remedy::RebuildKernel(missing.clone())),
        };
        let evidence = match verdict {
            Verdict::Inconclusive => {
                "neither /proc/config.gz nor /boot/config-RELEASE can be read".to_owned()
            }
            Verdict::Works => "all are set".to_owned(),
            _ => format!("not set: {missing}"),
        };
        let evidence = if without.is_empty() {
            evidence
        } else {
            format!("{evidence}; better with {without}")
        };
        let asked = format!("find the kernel options that {} needs", needs.backend);
        Check { name, asked, verdict, evidence, remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_options_are_named() {
        let all = ["CGROUPS", "BPF", "BPF_SYSCALL", "CGROUP_BPF", "INET", "BPF_JIT"];
        let mut options = all.map(|name| (name, true));
        let works = Config::with(&options).check(&NEEDS[0]);
        assert_eq!(works.verdict, Verdict::Works);
        assert!(works.evidence.contains("better with CONFIG_DEBUG_INFO_BTF"), "{works:?}");
        options[3].1 = false;
        let missing = Config::with(&options).check(&NEEDS[0]);
        assert_eq!(missing.remedy, Remedy::RebuildKernel("CONFIG_CGROUP_BPF".into()));
        let unknown = Config::default().check(&NEEDS[0]);
        assert_eq!(unknown.verdict, Verdict::Inconclusive);
    }
}
