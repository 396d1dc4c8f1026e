//! The manual pages in docs/man, written by `clap_mangen` from the command line's own help.
//! `make man` writes them anew; the test says when that was forgotten.

use std::{env, fs, path::Path};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::args::Cli;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/man");

/// File names and contents: the program's page, and one for each subcommand that users call.
fn pages() -> Vec<(String, String)> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let shown = cli.get_subcommands().filter(|command| !command.is_hide_set());
    [&cli].into_iter().chain(shown).map(page).collect()
}

fn page(command: &Command) -> (String, String) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let mut text = Vec::new();
    let source = concat!("chadthrottle ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(name.to_uppercase()).section("8");
    man.source(source)
        .manual("System administration")
        .render(&mut text)
        .expect("written to memory");
    (format!("{name}.8"), String::from_utf8(text).expect("text"))
}

#[test]
fn pages_say_what_the_help_says() {
    for (name, page) in pages() {
        let path = Path::new(DIRECTORY).join(name);
        if env::var_os("CHADTHROTTLE_MAN").is_some() {
            fs::create_dir_all(DIRECTORY).expect("make the directory");
            fs::write(&path, &page).expect("write a page");
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == page, "{} is not what --help says: run `make man`", path.display());
    }
}
