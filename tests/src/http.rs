//! The screen without a browser: requests as text, and users made at the box.
use crate::daemon::triaged;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;

/// The password of every user of [`user`].
pub const PASSWORD: &str = "correct horse battery";

/// A user, made at the box itself while the daemon runs.
pub fn user(dir: &Path, name: &str, role: &str) {
    let mut command = triaged(&["users", "--config"]);
    command.arg(dir.join("triaged.toml")).args(["add", name, "--role", role]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A request: the status, the head and the body.
pub fn http(port: u16, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    (status, head.to_lowercase(), body.to_owned())
}

/// Asks for a page, with further lines of the head.
pub fn get(port: u16, path: &str, headers: &str) -> (u16, String, String) {
    http(
        port,
        &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}\r\n"),
    )
}

/// Sends a form, with further lines of the head.
pub fn post(port: u16, path: &str, headers: &str, body: &str) -> (u16, String, String) {
    let kind = "application/x-www-form-urlencoded";
    http(
        port,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n{headers}\r\n{body}",
            body.len()
        ),
    )
}

/// Logs a user of [`user`] in: the line of the head that carries the session.
pub fn login(port: u16, name: &str) -> String {
    let form = format!("name={name}&password={}", PASSWORD.replace(' ', "+"));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!(
        "POST /login HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Type: \
         application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    // Not in lower case: a token is neither.
    let cookie =
        text.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap_or_else(|| panic!("{text}"));
    format!("Cookie: {}\r\n", cookie.split(';').next().unwrap())
}

/// What a form of a page carries to show that it is ours.
pub fn csrf(page: &str) -> String {
    let field = page.split("name=\"csrf\" value=\"").nth(1).unwrap_or_else(|| panic!("no form in {page}"));
    field.split('"').next().unwrap().to_owned()
}
