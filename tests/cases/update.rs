//! Changing limits in place; see `chadthrottle_tests::conformance::update`.

macro_rules! cases {
    ($($backend:ident),+) => {
        $(mod $backend {
            use chadthrottle_tests::conformance::update;

            #[test]
            fn download() {
                update::download(stringify!($backend));
            }

            #[test]
            fn upload() {
                update::upload(stringify!($backend));
            }

            #[test]
            fn with_rtt_download() {
                update::with_rtt_download(stringify!($backend));
            }

            #[test]
            fn with_rtt_upload() {
                update::with_rtt_upload(stringify!($backend));
            }

            #[test]
            fn two_limits_of_one_session() {
                update::two_limits_of_one_session(stringify!($backend));
            }
        })+
    };
}

cases!(ebpf, tc);
