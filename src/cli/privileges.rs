//! Rights that the process gives up: it becomes another user if root starts it, and with
//! `service.confine` the system lets it write only where the settings say. `run` calls it.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::config::Settings;

/// The user and groups that the process is to become.
#[cfg(target_os = "linux")]
pub(super) struct Identity {
    name: String,
    user: nix::unistd::Uid,
    group: nix::unistd::Gid,
}

#[cfg(not(target_os = "linux"))]
pub(super) struct Identity;

/// The directories that the service writes into.
fn written(settings: &Settings) -> Vec<PathBuf> {
    let mut written = Vec::new();
    if settings.spool.url.is_none() {
        written.push(settings.spool.path.clone());
    }

    for relay in &settings.relays {
        let capture = relay.url.parsed().filter(|url| url.scheme() == "capture");
        let path = capture.map(|url| PathBuf::from(url.path()));
        written.extend(path.filter(|path| path.as_os_str().len() > 1));
        let token = relay.oauth2.as_ref();
        let token = token.and_then(|oauth2| oauth2.refresh_token_file.as_deref());
        written.extend(token.and_then(Path::parent).map(Path::to_owned));
    }

    for path in &mut written {
        if path.as_os_str().is_empty() {
            *path = PathBuf::from(".");
        }
    }

    written
}

#[cfg(target_os = "linux")]
impl Identity {
    /// The identity that the settings name; `None` if the process keeps its own.
    pub(super) fn of(settings: &Settings) -> Result<Option<Self>, Failure> {
        use nix::unistd::{Group, User, geteuid};

        let mistake = |key: &str, reason: String| Failure::from(settings.mistake(key, reason));
        let Some(name) = &settings.service.user else {
            return Ok(None);
        };
        let user = User::from_name(name).ok().flatten();
        let user = user.ok_or_else(|| {
            let reason = format!("there is no user named `{}`", name.escape_debug());
            mistake("service.user", reason)
        })?;

        let group = match &settings.service.group {
            None => user.gid,
            Some(name) => {
                let group = Group::from_name(name).ok().flatten();
                let missing = || format!("there is no group named `{}`", name.escape_debug());
                group
                    .ok_or_else(|| mistake("service.group", missing()))?
                    .gid
            }
        };

        if geteuid() == user.uid {
            return Ok(None);
        }
        if !geteuid().is_root() {
            let reason = "is another user than this one, and only root can change users";
            return Err(mistake("service.user", reason.to_owned()));
        }

        Ok(Some(Identity {
            name: user.name,
            user: user.uid,
            group,
        }))
    }

    /// Becomes that user, for good.
    pub(super) fn assume(&self) -> Result<(), Failure> {
        use nix::unistd::{getegid, geteuid, initgroups, setgid, setuid};

        let fail = |what: &str| Failure::Failed(format!("cannot become {}: {what}", self.name));
        let name = std::ffi::CString::new(self.name.as_str()).map_err(|e| fail(&e.to_string()))?;
        let become_it = || {
            initgroups(&name, self.group)?;
            setgid(self.group)?;
            setuid(self.user)
        };

        become_it().map_err(|e| fail(&e.to_string()))?;
        let is_it = geteuid() == self.user && getegid() == self.group;
        if !is_it || setuid(nix::unistd::Uid::from_raw(0)).is_ok() {
            return Err(fail("the system did not drop the rights of root"));
        }
        tracing::info!(user = self.name, "the rights of root are given up");

        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
impl Identity {
    pub(super) fn of(settings: &Settings) -> Result<Option<Self>, Failure> {
        match &settings.service.user {
            Some(_) => Err(settings
                .mistake("service.user", "works on Linux only")
                .into()),
            None => Ok(None),
        }
    }

    pub(super) fn assume(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// Creates the missing directories that the service writes into, and gives those that it created to
/// the user that it becomes.
pub(super) fn provide(settings: &Settings, identity: Option<&Identity>) -> Result<(), Failure> {
    for path in written(settings) {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
            .collect();
        let made = crate::private::make_directory(&path);
        made.map_err(|e| Failure::Failed(format!("cannot make {}: {e}", path.display())))?;
        #[cfg(target_os = "linux")]
        if let Some(identity) = identity {
            for path in missing {
                let (user, group) = (identity.user.as_raw(), identity.group.as_raw());
                std::os::unix::fs::lchown(path, Some(user), Some(group)).map_err(|e| {
                    let path = path.display();
                    Failure::Failed(format!("cannot change the owner of {path}: {e}"))
                })?;
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (missing, identity);
    }

    Ok(())
}

/// Has the system refuse writes elsewhere, and the start of programs. It must be called before
/// there are other threads: it holds for this one and those that it starts.
#[cfg(target_os = "linux")]
pub(super) fn confine(settings: &Settings) -> Result<(), Failure> {
    use landlock::{
        ABI, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, path_beneath_rules,
    };

    let writing = AccessFs::from_write(ABI::V3);
    let handled = writing | AccessFs::Execute;
    let confined = Ruleset::default()
        .handle_access(handled)
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rules(path_beneath_rules(written(settings), writing)))
        .and_then(|ruleset| ruleset.restrict_self());
    let cannot = |reason: String| {
        let reason = format!("cannot be enforced: {reason}");
        Failure::from(settings.mistake("service.confine", reason))
    };

    match confined.map_err(|e| cannot(e.to_string()))?.ruleset {
        RulesetStatus::NotEnforced => Err(cannot("this system has no landlock".to_owned())),
        _ => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn confine(settings: &Settings) -> Result<(), Failure> {
    Err(settings
        .mistake("service.confine", "works on Linux only")
        .into())
}
