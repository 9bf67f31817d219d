//! A real browser: Chromium, driven by Playwright.
use crate::peers::{have_python, script, skip};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// Where Debian's package has it.
const CHROMIUM: &str = "/usr/bin/chromium";

/// A running browser; its pages have names, and cookies of their own.
pub struct Browser {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Browser {
    /// Starts it; `None`, said aloud, where Chromium or Playwright is missing.
    pub fn start() -> Option<Self> {
        if !Path::new(CHROMIUM).exists() {
            skip("chromium");
            return None;
        }
        if !have_python("playwright") || !have_python("axe_playwright_python") {
            return None;
        }
        let mut child = script("browser.py")
            .arg(CHROMIUM)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("browser.py: {e}"));
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Some(Self { child, stdin, stdout })
    }

    /// Does a step: see `tests/peers/browser.py`.
    ///
    /// # Panics
    /// When it fails.
    pub fn ask(&mut self, op: &str, page: &str, mut arguments: Value) -> Value {
        arguments["op"] = op.into();
        arguments["page"] = page.into();
        writeln!(self.stdin, "{arguments}").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let mut answer: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        if let Some(error) = answer.get("error") {
            panic!("{arguments}: {}", error.as_str().unwrap());
        }
        answer["ok"].take()
    }

    /// Opens a page of this name.
    pub fn open(&mut self, page: &str, url: &str) {
        self.ask("open", page, json!({ "url": url }));
    }

    /// Goes on to another address.
    pub fn goto(&mut self, page: &str, url: &str) {
        self.ask("goto", page, json!({ "url": url }));
    }

    /// Waits until something is to be seen, and has this text in it.
    pub fn wait(&mut self, page: &str, selector: &str, text: &str) {
        self.ask("wait", page, json!({ "selector": selector, "text": text }));
    }

    /// Waits until something is not to be seen any more.
    pub fn wait_gone(&mut self, page: &str, selector: &str) {
        self.ask("wait", page, json!({ "selector": selector, "state": "hidden" }));
    }

    /// The texts of all that matches.
    pub fn text(&mut self, page: &str, selector: &str) -> Vec<String> {
        let texts = self.ask("text", page, json!({ "selector": selector }));
        texts.as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect()
    }

    /// How much matches.
    pub fn count(&mut self, page: &str, selector: &str) -> u64 {
        self.ask("count", page, json!({ "selector": selector })).as_u64().unwrap()
    }

    /// Clicks on the first that matches.
    pub fn click(&mut self, page: &str, selector: &str) {
        self.ask("click", page, json!({ "selector": selector }));
    }

    /// Fills a field.
    pub fn fill(&mut self, page: &str, selector: &str, value: &str) {
        self.ask("fill", page, json!({ "selector": selector, "value": value }));
    }

    /// What a script says.
    pub fn eval(&mut self, page: &str, script: &str) -> Value {
        self.ask("eval", page, json!({ "script": script }))
    }

    /// Waits until a script says yes.
    pub fn until(&mut self, page: &str, script: &str) {
        self.ask("until", page, json!({ "script": script }));
    }

    /// Faults that axe-core calls serious or critical, and what the page did that it must not.
    pub fn faults(&mut self, page: &str) -> Vec<Value> {
        let mut faults = self.ask("axe", page, json!({})).as_array().unwrap().clone();
        faults.extend(self.ask("heard", page, json!({})).as_array().unwrap().iter().cloned());
        faults
    }

    /// A picture of the page, into `target/screenshots`.
    pub fn picture(&mut self, page: &str, name: &str) {
        let folder = crate::daemon::workspace().join("target/screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        self.ask("picture", page, json!({ "path": folder.join(name) }));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends with its input, but not if it hangs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
