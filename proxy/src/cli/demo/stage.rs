//! Where the acts are played: the processes, the files, and the ways to look and to act.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pointsman_config::RouteName;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use super::cast::{self, Books, Load, Silent};
use super::figures::{ActFigures, Figures};
use super::script::Places;
use super::{DemoArgs, DemoError};
use crate::cli::CliError;
use crate::cli::client::{Admin, Connection};
use crate::cli::print::Page;
use crate::view::{DecisionRow, RouteView};

/// Where the edge and its admin API listen, if nobody else does.
const EDGE: &str = "127.0.0.1:8080";
const ADMIN: &str = "127.0.0.1:9900";
/// Between two looks at the edge.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The two bundles that ship with the program, by version and file name.
const BUNDLES: [(&str, &str, &[u8]); 4] = [
    ("v1", "model.json", include_bytes!("../../../../model-server/models/delivery-time/v1/model.json")),
    ("v1", "model.safetensors", include_bytes!("../../../../model-server/models/delivery-time/v1/model.safetensors")),
    ("v2", "model.json", include_bytes!("../../../../model-server/models/delivery-time/v2/model.json")),
    ("v2", "model.safetensors", include_bytes!("../../../../model-server/models/delivery-time/v2/model.safetensors")),
];

/// The stage.
#[derive(Debug)]
pub(super) struct Stage {
    page: Option<Page>,
    folder: TempDir,
    places: Places,
    servers: Vec<Silent>,
    edge: Silent,
    load: Load,
    admin: Admin,
    faults: String,
    route: RouteName,
    began: Instant,
    acts: Vec<ActFigures>,
}

impl Stage {
    /// Starts everything and waits until traffic flows.
    pub(super) async fn set(args: &DemoArgs) -> Result<Self, CliError> {
        let page = (!args.json).then(Page::appended);
        let began = Instant::now();
        let say = |text: &str| page.as_ref().map_or(Ok(()), |page| page.text(&format!("{text}\n")));
        let (model_server, chaos) =
            (cast::program("model-server", "model-server")?, cast::program("chaos", "pointsman-chaos")?);
        let folder = tempfile::Builder::new().prefix("pointsman-demo-").tempdir().map_err(DemoError::Folder)?;
        let bundles = unpack(&folder)?;
        let (first, v1) = cast::model_server(&model_server, &bundles.join("v1")).await?;
        let (second, behind) = cast::model_server(&model_server, &bundles.join("v2")).await?;
        let (layer, v2, control) = cast::fault_layer(&chaos, behind).await?;
        say(&format!("model server v1 on {v1}, v2 on {behind} (behind a fault layer on {v2})"))?;
        let mut places = Places { edge: free_or(EDGE)?, admin: free_or(ADMIN)?, v1, v2 };
        let config = folder.path().join("pointsman.yaml");
        fs::write(&config, places.weights("r0", 0)).map_err(DemoError::Folder)?;
        let (edge, at, admin_at) = cast::edge(&config).await?;
        (places.edge, places.admin) = (at, admin_at);
        say(&format!("edge on http://{at}, admin API on http://{admin_at}, config in {}", config.display()))?;
        say(&format!("watch it in a browser: http://{admin_at}/"))?;
        let load = Load::start(&chaos, at, args.rate, &bodies())?;
        say(&format!(
            "load: {} predictions per second, sent on time whether or not earlier ones were answered",
            args.rate
        ))?;
        let admin = Admin::new(&Connection { admin: Some(format!("http://{admin_at}")), ..Connection::default() })?;
        let route = "delivery-time"
            .parse()
            .map_err(|error| DemoError::Strange { what: "the route's name", source: Box::new(error) })?;
        let servers = vec![first, second, layer];
        let faults = format!("http://{control}");
        Ok(Self { page, folder, places, servers, edge, load, admin, faults, route, began, acts: Vec::new() })
    }

    /// One line for people, with the seconds since the start.
    pub(super) fn say(&self, text: &str) -> Result<(), CliError> {
        let line = format!("{:6.1} s  {text}\n", self.began.elapsed().as_secs_f64());
        Ok(self.page.as_ref().map_or(Ok(()), |page| page.text(&line))?)
    }

    /// A heading for people.
    pub(super) fn title(&self, text: &str) -> Result<(), CliError> {
        Ok(self.page.as_ref().map_or(Ok(()), |page| page.text(&format!("\n{text}\n")))?)
    }

    /// Who is where.
    pub(super) fn places(&self) -> Places {
        self.places
    }

    /// Writes the config file as an editor does, and waits until it is in force; gives the milliseconds that took.
    pub(super) async fn write_config(&self, text: &str) -> Result<f64, CliError> {
        let before = self.admin.config()?.config.generation;
        let written = Instant::now();
        let (file, draft) = (self.config_file(), self.folder.path().join("draft"));
        fs::write(&draft, text).and_then(|()| fs::rename(&draft, &file)).map_err(DemoError::Folder)?;
        self.wait_for("the edited file to be in force", 10, || {
            Ok((self.admin.config()?.config.generation > before).then_some(()))
        })
        .await?;
        Ok(written.elapsed().as_secs_f64() * 1000.0)
    }

    fn config_file(&self) -> PathBuf {
        self.folder.path().join("pointsman.yaml")
    }

    /// Sets what the fault layer in front of v2 does.
    pub(super) fn break_v2(&self, faults: &str) -> Result<(), CliError> {
        let strange = |source| DemoError::Strange { what: "the fault layer", source: Box::new(source) };
        ureq::put(format!("{}/faults", self.faults)).send(faults).map_err(strange)?;
        Ok(())
    }

    /// When the fault layer gave its first bad answer since the faults were last set; microseconds since 1970.
    pub(super) fn first_bad_answer_us(&self) -> Result<Option<u64>, CliError> {
        let strange = |source| DemoError::Strange { what: "the fault layer", source: Box::new(source) };
        let counts: Value = ureq::get(format!("{}/counts", self.faults))
            .call()
            .and_then(|mut answer| answer.body_mut().read_json())
            .map_err(strange)?;
        Ok(counts.get("first_fault_unix_us").and_then(Value::as_u64))
    }

    /// The route as the edge shows it.
    pub(super) fn route(&self) -> Result<RouteView, CliError> {
        self.admin.route(&self.route)
    }

    /// The decisions since number `after`, oldest first.
    pub(super) fn decisions_after(&self, after: u64) -> Result<Vec<DecisionRow>, CliError> {
        let mut rows = self.admin.decisions(&self.route, 100)?;
        rows.retain(|row| row.id > after);
        rows.sort_by_key(|row| row.id);
        Ok(rows)
    }

    /// What the load has counted so far.
    pub(super) fn books(&self) -> Books {
        self.load.books()
    }

    /// Looks again and again until `look` gives something.
    pub(super) async fn wait_for<T>(
        &self,
        what: &str,
        seconds: u64,
        mut look: impl FnMut() -> Result<Option<T>, CliError>,
    ) -> Result<T, CliError> {
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            if let Some(found) = look()? {
                return Ok(found);
            }
            sleep(LOOK_EVERY).await;
        }
        Err(DemoError::InVain { what: what.to_owned(), seconds }.into())
    }

    /// Keeps the figures of an act that was played to its end.
    pub(super) fn keep(&mut self, act: ActFigures) {
        self.acts.push(act);
    }

    /// The figures of every act, and what went wrong.
    pub(super) fn figures(&self, played: &Result<(), CliError>) -> Figures {
        Figures::of(self.acts.clone(), played.as_ref().err().map(CliError::chain))
    }

    /// What to try while everything is left running.
    pub(super) fn how_to_look_around(&self) -> String {
        let Places { edge, admin, .. } = self.places;
        format!(
            "\nEverything is left running until Ctrl-C. The dashboard: http://{admin}/\nTry in another terminal:\n  pointsman --admin http://{admin} status --watch\n  pointsman --admin http://{admin} history delivery-time\n  pointsman --admin http://{admin} explain delivery-time\n  $EDITOR {}\n  curl -i http://{edge}/ready\n",
            self.config_file().display()
        )
    }

    /// Ends every process, traffic first.
    pub(super) async fn clear(self) {
        self.load.end().await;
        self.edge.end().await;
        for server in self.servers {
            server.end().await;
        }
    }
}

/// Now; microseconds since 1970.
pub(super) fn unix_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|span| u64::try_from(span.as_micros()).ok())
        .unwrap_or_default()
}

/// `wanted` if nobody listens there, else a free port of the same host.
fn free_or(wanted: &str) -> Result<SocketAddr, DemoError> {
    let taken = |_error: std::io::Error| TcpListener::bind("127.0.0.1:0");
    let listener = TcpListener::bind(wanted).or_else(taken)?;
    Ok(listener.local_addr()?)
}

/// Writes the bundles that ship with the program into the demo's folder.
fn unpack(folder: &TempDir) -> Result<PathBuf, DemoError> {
    let bundles = folder.path().join("models");
    for (version, file, bytes) in BUNDLES {
        fs::create_dir_all(bundles.join(version))?;
        fs::write(bundles.join(version).join(file), bytes)?;
    }
    Ok(bundles)
}

/// Request bodies: the inputs of the golden examples of v1.
fn bodies() -> Vec<String> {
    let bundle = BUNDLES.iter().find(|(version, file, _)| *version == "v1" && *file == "model.json");
    let model: Value = bundle.and_then(|(_, _, bytes)| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    let examples = model.pointer("/golden/examples").and_then(Value::as_array).cloned().unwrap_or_default();
    examples.iter().filter_map(|example| example.get("input")).map(Value::to_string).collect()
}
