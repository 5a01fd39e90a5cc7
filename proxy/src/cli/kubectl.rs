//! The edge in a cluster, as `kubectl` reaches it: its admin port comes to a free port of this machine for as long as a
//! command takes, and its token out of the cluster. So the plugin may do what `kubectl` may, and needs nothing else.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use thiserror::Error;

/// The program that is asked.
const KUBECTL: &str = "kubectl";
/// Longest that `kubectl port-forward` may take until it listens.
const FORWARD_WITHIN: Duration = Duration::from_secs(20);
/// The port's name, as the manifests have it.
const ADMIN_PORT: &str = "admin";
/// Characters that the name of a process has behind that of its pod: a dash and eight digits.
const INSTANCE_CHARS: usize = 9;

/// Where in a cluster the edge is.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterArgs {
    /// Context of the kubeconfig in which the edge runs; the present one if not given
    #[arg(long, value_name = "NAME", global = true, hide = true)]
    pub context: Option<String>,
    /// Namespace in which the edge runs; that of the context if not given
    #[arg(long, short = 'n', value_name = "NAME", global = true, hide = true)]
    pub namespace: Option<String>,
    /// kubeconfig file; as kubectl finds it if not given
    #[arg(long, value_name = "FILE", global = true, hide = true)]
    pub kubeconfig: Option<String>,
    /// Name of the edge's Deployment and of its Lease
    #[arg(long, value_name = "NAME", global = true, hide = true, default_value = "pointsman")]
    pub edge: String,
}

impl ClusterArgs {
    /// Their names. Each of them says that the edge is in a cluster.
    pub(super) const NAMES: [&'static str; 4] = ["context", "namespace", "kubeconfig", "edge"];

    fn kubectl(&self) -> Command {
        let mut command = Command::new(KUBECTL);
        let flags = [("context", &self.context), ("namespace", &self.namespace), ("kubeconfig", &self.kubeconfig)];
        for (flag, value) in flags {
            command.args(value.as_ref().map(|value| format!("--{flag}={value}")));
        }
        command.stdin(Stdio::null());
        command
    }

    /// What `kubectl` prints when it is asked for this; none if it refuses.
    fn asked(&self, arguments: &[&str]) -> Result<Option<String>, ReachError> {
        let output = self.kubectl().args(arguments).output().map_err(|source| ReachError::NoKubectl { source })?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok((output.status.success() && !text.is_empty()).then_some(text))
    }

    /// The pod that leads, where there is a Lease: orders are for it. Else any of the Deployment.
    fn target(&self) -> Result<String, ReachError> {
        let holder = self.asked(&["get", "lease", &self.edge, "--output=jsonpath={.spec.holderIdentity}"])?;
        let pod = holder.and_then(|holder| {
            let name = holder.len().checked_sub(INSTANCE_CHARS)?;
            holder.get(..name).filter(|pod| !pod.is_empty()).map(|pod| format!("pod/{pod}"))
        });
        Ok(pod.unwrap_or_else(|| format!("deployment/{}", self.edge)))
    }

    /// Where the manifests keep the tokens.
    pub(super) fn secret(&self) -> String {
        format!("{}-tokens", self.edge)
    }

    /// The admin token as the manifests keep it; none if there is none or this user may not read it.
    pub(super) fn token(&self) -> Result<Option<String>, ReachError> {
        let encoded = self.asked(&["get", "secret", &self.secret(), "--output=jsonpath={.data.admin-token}"])?;
        let decoded = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
        Ok(decoded.and_then(|token| String::from_utf8(token).ok()).map(|token| token.trim().to_owned()))
    }

    /// The edge's admin port on a free port of this machine. Of several edges the one that leads; of one that has no
    /// leader yet, or whose leader is just gone, any.
    pub(super) fn forward(&self) -> Result<Forward, ReachError> {
        let target = self.target()?;
        let any = format!("deployment/{}", self.edge);
        match Forward::to(self, &target) {
            Err(ReachError::NoForward { .. }) if target != any => Forward::to(self, &any),
            forward => forward,
        }
    }
}

/// Runs `"$@"` until it ends, or until standard input does: whoever holds the other end of that pipe is gone then, however
/// it went.
const WHILE_HELD: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- & held=$!
{ read -r _ <&3; kill "$held"; } >/dev/null 2>&1 & guard=$!
wait "$held" 2>/dev/null; code=$?
kill "$guard" 2>/dev/null
exit "$code"
"#;

/// A forwarded port; it ends with the value, and with this process, even one that is killed.
#[derive(Debug)]
pub(super) struct Forward {
    child: Child,
    /// Where the edge is meanwhile.
    pub(super) url: String,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.let_go();
        drop(self.child.wait());
    }
}

impl Forward {
    fn to(cluster: &ClusterArgs, target: &str) -> Result<Self, ReachError> {
        let kubectl = cluster.kubectl();
        let mut child = Command::new("/bin/sh")
            .args(["-c", WHILE_HELD, "sh"])
            .arg(kubectl.get_program())
            .args(kubectl.get_args())
            .args(["port-forward", "--address=127.0.0.1", target, &format!(":{ADMIN_PORT}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| ReachError::NoKubectl { source })?;
        let (said, heard) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            // Reads on to the end, so that kubectl never writes into a closed pipe.
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if let Some(url) = forwarded(&line) {
                        // Nobody waits for a second one.
                        drop(said.send(url));
                    }
                }
            });
        }
        let mut forward = Self { child, url: String::new() };
        match heard.recv_timeout(FORWARD_WITHIN) {
            Ok(url) => {
                forward.url = url;
                Ok(forward)
            }
            Err(_ended_or_silent) => Err(forward.failed(target)),
        }
    }

    /// Closes the pipe that it lives by.
    fn let_go(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Ends it, and tells what it said.
    fn failed(mut self, target: &str) -> ReachError {
        self.let_go();
        let mut said = String::new();
        let read = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
        let said = if said.trim().is_empty() || matches!(read, Some(Err(_))) {
            format!("it did not listen within {} s", FORWARD_WITHIN.as_secs())
        } else {
            said.trim().replace('\n', "; ")
        };
        ReachError::NoForward { target: target.to_owned(), said }
    }

    /// Whether it has ended, so that another one is needed.
    pub(super) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }
}

/// The address in `Forwarding from 127.0.0.1:41234 -> 9900`.
fn forwarded(line: &str) -> Option<String> {
    let address = line.strip_prefix("Forwarding from ")?.split_once(" -> ")?.0;
    address.starts_with("127.0.0.1:").then(|| format!("http://{address}"))
}

/// Why the edge cannot be reached through `kubectl`, and the way out.
#[derive(Debug, Error)]
pub enum ReachError {
    /// It is not there.
    #[error("kubectl cannot be run; install it, or name the edge's admin address with --admin URL")]
    NoKubectl {
        /// Why.
        source: io::Error,
    },
    /// It does not forward.
    #[error(
        "kubectl does not reach `{target}` ({said}); say where the edge runs with --namespace, --context and --edge, or name its admin address with --admin URL"
    )]
    NoForward {
        /// What was to be reached.
        target: String,
        /// What kubectl said.
        said: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_what_kubectl_prints() {
        assert_eq!(forwarded("Forwarding from 127.0.0.1:41234 -> 9900").as_deref(), Some("http://127.0.0.1:41234"));
        for other in ["Forwarding from [::1]:41234 -> 9900", "Handling connection for 41234", ""] {
            assert_eq!(forwarded(other), None, "{other}");
        }
    }
}
