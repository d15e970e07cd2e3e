//! The verbs for a backend's host, where no daemon runs: `decap`, and `backend setup`.

use super::args::{Decap, Global, Setup};
use super::failure::Failure;
use super::{Printed, Screen, print};
use crate::backend::host::Host;
use crate::backend::record::Store;
use crate::backend::{Change, Mode, Wanted, advice, plan, warnings};
use crate::decap;
use crate::output::{DecapStatus, Detached, Format, Prepared};

/// Attaches, shows or removes the end of a tunnel.
pub(super) fn decap(args: Decap, global: &Global, screen: &Screen) -> Result<Printed, Failure> {
    let Decap { interfaces, from, xdp_mode, pin_dir, status, remove } = args;
    if remove {
        let removed = decap::remove(&pin_dir)?;
        return Printed::answer(&Detached::new(removed), global.output, screen);
    }
    if !status {
        let interfaces = interfaces.into_iter().collect();
        let from = from.into_iter().collect();
        decap::attach(&pin_dir, &decap::Settings { interfaces, from, mode: xdp_mode })?;
    }
    let attached = decap::attached(&pin_dir)?;
    Printed::answer(&DecapStatus::new(attached.as_ref()), global.output, screen)
}

/// Prepares the host, or puts back what was changed.
pub(super) async fn setup(
    args: Setup,
    global: &Global,
    screen: &Screen,
) -> Result<Printed, Failure> {
    let store = Store::new(&args.state_dir);
    let mut show = |change: &Change| match global.output {
        // Before it is made. JSON is one object, at the end.
        Format::Table => Ok(print(&format!("{change}\n"))?),
        Format::Json => Ok(()),
    };
    let Some(mode) = args.mode else {
        let Some(record) = store.load()? else {
            return Printed::answer(&Prepared::default(), global.output, screen);
        };
        let host = Host::connect(&record.pin_dir)?;
        let (changes, notes) = record.undo(&host.find(&record.sysctl_names()).await?);
        if !args.dry_run {
            host.put_back(&store, &changes, &mut show).await?;
        }
        let prepared = Prepared::new(&changes, args.dry_run, notes);
        return Printed::answer(&prepared, global.output, screen);
    };
    let wanted = wanted(mode, &args)?;
    let host = Host::connect(&args.pin_dir)?;
    let mtus = host.mtus(&wanted).await?;
    let found = host.find(&wanted.sysctl_names()).await?;
    let changes = plan(&wanted, &found);
    if !args.dry_run {
        host.set_up(&store, &changes, &mut show).await?;
    }
    let mut notes = warnings(&wanted, &found);
    notes.extend(advice(mode, &wanted, &mtus));
    Printed::answer(&Prepared::new(&changes, args.dry_run, notes), global.output, screen)
}

fn wanted(mode: Mode, args: &Setup) -> Result<Wanted, Failure> {
    let vips = args.vips.iter().copied().collect();
    if mode == Mode::L2 {
        if !(args.interfaces.is_empty() && args.from.is_empty()) {
            let words = "--interface and --from are for tunnels, not for --mode l2";
            return Err(Failure::Usage(words.to_owned()));
        }
        return Ok(Wanted { vips, decap: None });
    }
    let interfaces = args.interfaces.iter().cloned().collect();
    let from = args.from.iter().copied().collect();
    Ok(Wanted { vips, decap: Some(decap::Settings { interfaces, from, mode: args.xdp_mode }) })
}
