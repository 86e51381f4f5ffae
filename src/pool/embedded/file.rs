//! The file of a database, and whether it may be one: ours alone, on this machine.
//!
//! LMDB opens by name and follows links, so both of its files are made and looked at here
//! first. After that nobody else can put another in their place: the directory is ours or
//! root's, and others can neither write to it nor, where it is sticky, rename what is ours.

use super::store::READERS;
use crate::error::{Error, Kind};
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, Stat, fallocate, fstat, fstatfs, open, openat,
    statat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::path::{Path, PathBuf};

/// Bytes of LMDB's lock file: 64 for each reader, and a head of up to 64 such places (mdb.c,
/// MDB_reader and MDB_txninfo).
const LOCK_SIZE: u64 = (READERS as u64 + 64) * 64;

/// File systems whose maps and locks do not reach other machines (statfs(2), f_type).
const REMOTE: [(u32, &str); 9] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x5346_414f, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x7461_636f, "OCFS2"),
    (0x0102_1997, "9p"),
];

/// Makes this user's files in `directory`, or finds them; the path of the database, and its
/// device and inode.
///
/// # Errors
/// `State`, naming the path and what to do.
pub(super) fn prepare(directory: &Path) -> Result<(PathBuf, (u64, u64)), Error> {
    let user = geteuid().as_raw();
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let folder = open(directory, flags, Mode::empty()).map_err(|e| system(directory, e))?;
    let stat = fstat(&folder).map_err(|e| system(directory, e))?;
    let sticky = stat.st_mode & 0o1000 != 0;
    if ![0, user].contains(&stat.st_uid) {
        let cause = format!(
            "the directory belongs to user {}, not to {user}",
            stat.st_uid
        );
        return refuse(
            directory,
            &cause,
            format!("Chown it to {user}, or name another"),
        );
    }
    if stat.st_mode & 0o022 != 0 && !sticky {
        let cause = "others may change what lies in the directory";
        return refuse(
            directory,
            cause,
            "chmod go-w it, or name another".to_owned(),
        );
    }
    let system_type = fstatfs(&folder).map_err(|e| system(directory, e))?.f_type as u32;
    if let Some((_, name)) = REMOTE.iter().find(|(kind, _)| *kind == system_type) {
        let cause = format!("it lies on {name}, where hosts would spoil each other's data");
        let hint = "Name a directory of this machine's own disk, or of /dev/shm";
        return refuse(directory, &cause, hint.to_owned());
    }
    let name = format!("memring-{user}.mdb");
    let files = [format!("{name}-lock"), name.clone()];
    let fits = |name: &str, stat: &Stat| {
        let path = directory.join(name);
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink != 1 {
            let cause = "it is a link, or no regular file";
            return refuse(&path, cause, "Remove it".to_owned());
        }
        if stat.st_uid != user {
            let cause = format!("it belongs to user {}, not to {user}", stat.st_uid);
            return refuse(
                &path,
                &cause,
                "Remove it, or name another directory".to_owned(),
            );
        }
        if stat.st_mode & 0o077 != 0 {
            return refuse(
                &path,
                "it is open to other users",
                "chmod it to 600".to_owned(),
            );
        }
        Ok(())
    };
    // All that is there first: beside what is refused nothing is made.
    for name in &files {
        if let Some(stat) = already_open(&folder, name) {
            fits(name, &stat)?;
        }
    }
    let mut place = (0, 0);
    for name in &files {
        // Looked at without opening it, where it is there: closing it later would drop LMDB's locks.
        let stat = match already_open(&folder, name) {
            Some(stat) => stat,
            None => make(&folder, name).map_err(|errno| system(&directory.join(name), errno))?,
        };
        fits(name, &stat)?;
        place = (stat.st_dev, stat.st_ino);
    }
    // The directory without what is a link on the way to it, as LMDB would see it.
    let real = directory
        .canonicalize()
        .map_err(|error| Error::new(Kind::State, format!("{}: {error}", directory.display())))?;
    Ok((real.join(name), place))
}

/// What the system said of `path`.
fn system(path: &Path, errno: Errno) -> Error {
    let cause = match errno {
        // What NOFOLLOW says of a link.
        Errno::LOOP | Errno::NOTDIR => "it is a symbolic link, or no directory".to_owned(),
        errno => std::io::Error::from(errno).to_string(),
    };
    let hint = match errno {
        Errno::NOSPC | Errno::DQUOT => "Give its disk room, or name another directory".to_owned(),
        _ => {
            let user = geteuid().as_raw();
            format!("Name a directory that user {user} may write: mkdir -m 700 and chown it")
        }
    };
    Error::new(Kind::State, format!("{}: {cause}", path.display())).hint(hint)
}

fn refuse<T>(path: &Path, cause: &str, hint: String) -> Result<T, Error> {
    Err(Error::new(Kind::State, format!("{}: {cause}", path.display())).hint(hint))
}

/// Makes a file, or finds what somebody else made just now. Closed at once, and before LMDB opens it.
fn make(folder: &OwnedFd, name: &str) -> Result<Stat, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fstat(openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?)
}

/// Gives the lock file of `database` all its room, which LMDB leaves in holes and maps: on a full disk
/// that would be a signal. Before LMDB opens it in this process, each time: who made it may have found no
/// room, and closing it later would drop LMDB's locks.
///
/// # Errors
/// `State`, naming the file and what to do.
pub(super) fn reserve(database: &Path) -> Result<(), Error> {
    let mut lock = database.as_os_str().to_owned();
    lock.push("-lock");
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let reserved = open(&lock, flags, Mode::empty())
        .and_then(|file| fallocate(&file, FallocateFlags::empty(), 0, LOCK_SIZE));
    match reserved {
        // Not every file system knows how to.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(system(Path::new(&lock), errno)),
    }
}

/// What lies there already, looked at without opening it.
fn already_open(folder: &OwnedFd, name: &str) -> Option<Stat> {
    statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()
}
