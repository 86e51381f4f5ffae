//! What Redis has no command for, as scripts: each runs whole, with nobody in between.
//!
//! A script is asked for by its SHA-1; a server that does not know it (new,
//! restarted, `SCRIPT FLUSH`) says NOSCRIPT, has done nothing, and is given it in full.
//!
//! Numbers they answer with: 0 no such item, 1 done, 2 it is another one now, 3 not stored.

use super::{array, bulk, number};
use sha1::{Digest, Sha1};
use std::sync::LazyLock;

/// A script and the name a server knows it by.
pub struct Script {
    text: &'static str,
    name: LazyLock<String>,
}

impl Script {
    /// Appends the call of it with `arguments` words behind the key, which follow.
    pub(super) fn say(&self, out: &mut Vec<u8>, whole: bool, key: &[u8], arguments: usize) {
        self.call(out, whole, &[key], arguments);
    }

    /// The same with any number of keys.
    pub(super) fn call(&self, out: &mut Vec<u8>, whole: bool, keys: &[&[u8]], arguments: usize) {
        array(out, 3 + keys.len() + arguments);
        if whole {
            bulk(out, b"EVAL");
            bulk(out, self.text.as_bytes());
        } else {
            bulk(out, b"EVALSHA");
            bulk(out, self.name.as_bytes());
        }
        number(out, keys.len() as u64);
        for key in keys {
            bulk(out, key);
        }
    }
}

/// `SHA-1` of a script's text in hexadecimal, as EVALSHA takes it.
fn name_of(text: &str) -> String {
    let digest: [u8; 20] = Sha1::digest(text).into();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

macro_rules! script {
    ($(#[$doc:meta])* $name:ident = $text:expr) => {
        $(#[$doc])*
        pub static $name: Script = Script {
            text: $text,
            name: LazyLock::new(|| name_of($name.text)),
        };
    };
}

script! {
    /// Stores where the item is still the one that was seen.
    /// Arguments: its cas value, the new item, its end.
    CAS = "\
local v=redis.call('GET',KEYS[1])
if not v then return 0 end
if string.sub(redis.sha1hex(v),1,15)~=ARGV[1] then return 2 end
redis.call('SET',KEYS[1],ARGV[2],unpack(ARGV,3))
return 1"
}

script! {
    /// Puts bytes behind a value. Argument: the bytes.
    /// Only what is shorter than the mark can become an item that seems to have flags.
    APPEND = "\
local h=redis.call('GETRANGE',KEYS[1],0,3)
if h=='' and redis.call('EXISTS',KEYS[1])==0 then return 3 end
if #h<4 and string.sub(h..ARGV[1],1,4)=='\\0mr1' then
 redis.call('SET',KEYS[1],'\\0mr1\\0\\0\\0\\0'..h..ARGV[1],'KEEPTTL')
else redis.call('APPEND',KEYS[1],ARGV[1]) end
return 1"
}

script! {
    /// Puts bytes before a value. Argument: the bytes.
    PREPEND = "\
local v=redis.call('GET',KEYS[1])
if not v then return 3 end
local h=''
if string.sub(v,1,4)=='\\0mr1' then h,v=string.sub(v,1,8),string.sub(v,9) end
v=ARGV[1]..v
if h=='' and string.sub(v,1,4)=='\\0mr1' then h='\\0mr1\\0\\0\\0\\0' end
redis.call('SET',KEYS[1],h..v,'KEEPTTL')
return 1"
}

/// A script that counts as memcached does: 64 bits that wrap upwards, and no number below 0. `$up` is `+` or `-`, and
/// `$plain` how Redis itself counts where it does it in the same way: few digits, with nothing before or behind them.
///
/// A number of Lua has 53 bits: up to 15 digits are counted as one, longer ones as two of
/// ten digits each.
macro_rules! count {
    ($up:literal, $plain:literal) => {
        concat!(
            "\
local a=ARGV[1]
local v=redis.call('GET',KEYS[1])
if not v then
 if not ARGV[2] then return false end
 redis.call('SET',KEYS[1],ARGV[2],unpack(ARGV,4))
 return ARGV[3]
end
if #v<16 and #a<16 and (v=='0' or string.find(v,'^[1-9]%d*$')) then
 ",
            $plain,
            "
end
local up='",
            $up,
            "'=='+'
local h=''
if string.sub(v,1,4)=='\\0mr1' then h,v=string.sub(v,1,8),string.sub(v,9) end
local d=string.match(v,'^(%d+) *$')
local n
if d and #d<16 and #a<16 then
 n=up and d+a or d-a
 n=string.format('%.0f',n<0 and 0 or n)
else
 local function two(s) s=string.rep('0',20-#s)..s return tonumber(string.sub(s,1,10)),tonumber(string.sub(s,11)) end
 local function less(a,b,c,d) return a<c or (a==c and b<d) end
 local a,b=0,0
 if d and #d<=20 then a,b=two(d) end
 if not d or #d>20 or not less(a,b,1844674407,3709551616) then
  return redis.error_reply('CLIENT_ERROR cannot increment or decrement non-numeric value')
 end
 local c,e=two(ARGV[1])
 if up then
  a,b=a+c,b+e
  if b>=1e10 then a,b=a+1,b-1e10 end
  if not less(a,b,1844674407,3709551616) then a,b=a-1844674407,b-3709551616 end
 elseif less(a,b,c,e) then a,b=0,0
 else a,b=a-c,b-e end
 if b<0 then a,b=a-1,b+1e10 end
 n=string.format('%.0f',b)
 if a>0 then n=string.format('%.0f%010.0f',a,b) end
end
redis.call('SET',KEYS[1],h..n,'KEEPTTL')
return n"
        )
    };
}

script! {
    /// Counts upwards. Arguments: how much, and where a missing counter is to begin its item, its
    /// digits and its end.
    COUNT_UP = count!("+", "return redis.call('INCRBY',KEYS[1],a)")
}

script! {
    /// The same downwards, to 0 at most.
    COUNT_DOWN = count!("-", "if v-a>=0 then return redis.call('DECRBY',KEYS[1],a) end")
}

script! {
    /// A copied value: cas value, milliseconds to live, and the item; without an argument only
    /// what may stand before its value ([`super::stored::HEAD_LEN`] and a header).
    LOOK = "\
local v=redis.call('GET',KEYS[1])
if not v then return false end
local l=redis.call('PTTL',KEYS[1])
return {string.sub(redis.sha1hex(v),1,15),l,ARGV[1]=='1' and v or string.sub(v,1,24)}"
}

script! {
    /// Deletes an item that is still the one that was seen. Argument: its cas value.
    REMOVE = "\
local v=redis.call('GET',KEYS[1])
if not v then return 0 end
if string.sub(redis.sha1hex(v),1,15)~=ARGV[1] then return 2 end
return redis.call('DEL',KEYS[1])"
}

script! {
    /// Takes an item's end away: it stays until it is deleted.
    KEEP = "\
if redis.call('EXISTS',KEYS[1])==0 then return 0 end
redis.call('PERSIST',KEYS[1])
return 1"
}

script! {
    /// Takes a turn where nobody has it: 1, else 3. Arguments: who wants it, seconds. Whose it is
    /// already gets it again: his question may have been heard without its answer. So does who
    /// has the same first 17 bytes, his worker and `-`, and a later visit: the earlier are over.
    TAKE = "\
local o=redis.call('GET',KEYS[1])
if o and string.sub(o,1,17)==string.sub(ARGV[1],1,17) and o<=ARGV[1] then
 redis.call('SET',KEYS[1],ARGV[1],'EX',ARGV[2])
 return 1
end
if redis.call('SET',KEYS[1],ARGV[1],'NX','EX',ARGV[2]) then return 1 end
return 3"
}

script! {
    /// Stores a session, and gives the turn on it back. Keys: session, turn. Arguments: who
    /// stores it, the cas value of the session as he read it, the session, its end.
    ///
    /// Whose turn is over stores nothing (2) where somebody else has it. Where nobody has, he
    /// stores only over what he read: somebody may have come and gone. `any` in place of a cas
    /// value stores over anything then. A store that is refused gives the turn back, too.
    ///
    /// With a third key that one says afterwards which bytes were stored, for a day longer: who
    /// stores others there, and knows nothing of it, is told by that.
    CLOSE = "\
local o=redis.call('GET',KEYS[2])
if o and o~=ARGV[1] then return 2 end
if not o and ARGV[2]~='any' then
 local v=redis.call('GET',KEYS[1])
 if (v and string.sub(redis.sha1hex(v),1,15) or '')~=ARGV[2] then return 2 end
end
local done=redis.pcall('SET',KEYS[1],ARGV[3],unpack(ARGV,4))
redis.call('DEL',KEYS[2])
if done.err then return done end
if KEYS[3] then redis.pcall('SET',KEYS[3],string.sub(redis.sha1hex(ARGV[3]),1,15),'EX',ARGV[5]+86400) end
return 1"
}

script! {
    /// Gives a turn back where it is still the caller's. Argument: who he is.
    GIVE_BACK = "\
if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end
return 0"
}

script! {
    /// Copied items and records, as [`super::fenced`] says them.
    /// Arguments: a word, and what it takes.
    FENCED = "\
local k,op,seen=KEYS[1],ARGV[1],ARGV[2]
local function now(last)
 local t=redis.call('TIME')
 local n=t[1]*1e6+t[2]
 if last and n<=tonumber(last) then n=last+1 end
 return string.format('%.0f',n)
end
if op=='add' or op=='set' or op=='doubt' then
 local h=redis.pcall('HMGET',k,'r','c')
 if op=='add' then
  if h.err or h[1] then return 3 end
 elseif not h[1] then return 0
 elseif h[2]~=seen then return 2 end
 local c=now(h[2])
 redis.call('HDEL',k,'k')
 if op=='doubt' then redis.call('HSET',k,'c',c)
 else
  local id=string.match(redis.call('INFO','server'),'run_id:(%w+)') or ''
  redis.call('HSET',k,'r',ARGV[3],'c',c,'i',id,'k','1')
 end
 return 1
end
local h=redis.pcall('HMGET',k,'c','f','t')
local c,f,t,d=h[1],h[2],h[3]
local own=c and f and not string.find(c..f,'%D')
local room=not c and f and redis.call('HEXISTS',k,'d')==1
if not own then
 c,f=false,'0'
 local kind=room and 'none' or redis.call('TYPE',k).ok
 if kind~='none' then
  d=kind
  if kind=='string' then d=redis.call('GET',k) end
  c=string.format('%.0f',tonumber(string.sub(redis.sha1hex(d),1,12),16)+1)
 end
end
if op=='read' or op=='touch' then
 local token,left='-',-1
 local asks=op=='read' and seen~=''
 if not c then
  if not asks then return false end
  c,d,token,left=now(),'','W',tonumber(seen)
  local e
  if room then
   redis.call('HDEL',k,'t')
   e=redis.pcall('HSET',k,'c',c,'f',f,'t','1')
  else e=redis.pcall('HSET',k,'c',c,'f',f,'d',d,'t','1') end
  if type(e)=='table' then return e end
  redis.call('PEXPIRE',k,seen)
 elseif own then
  if op=='touch' then redis.call('PEXPIRE',k,seen) end
  left=redis.call('PTTL',k)
  if t then token='Z'
  elseif asks and left>=0 then
   redis.call('HDEL',k,'t')
   redis.call('HSET',k,'t','1')
   token='W'
  end
 end
 if ARGV[3]=='' then return {c,f,left,token} end
 return {c,f,left,token,d or f=='0' and '' or redis.call('HGET',k,'d')}
end
if op=='store' and seen=='' then
 if c then return 3 end
elseif not c then return 0
elseif c~=seen then return 2 end
if op=='store' then
 if own or room then
  if #ARGV[6]<=redis.call('HSTRLEN',k,'d') then redis.call('HDEL',k,'t') end
 elseif c then redis.call('DEL',k) end
 local e=redis.pcall('HSET',k,'c',ARGV[3],'f',ARGV[4],'d',ARGV[6])
 if type(e)=='table' then
  if own and string.find(e.err,'OOM') then redis.call('HDEL',k,'c','t') end
  return e
 end
 redis.call('HDEL',k,'t')
 redis.call('PEXPIRE',k,ARGV[5])
elseif op=='unlock' then
 if not own then return 2 end
 redis.call('HDEL',k,'t')
 if c~=ARGV[3] then redis.call('HSET',k,'c',ARGV[3]) end
 if ARGV[4]~='' then redis.call('PEXPIRE',k,ARGV[4]) end
elseif op=='remove' then redis.call('DEL',k)
else return redis.error_reply('ERR no such word') end
return 1"
}

script! {
    /// One page of the items of ours: the next cursor, then each key and the bytes of its value.
    /// Argument: the cursor, 0 at first.
    PAGE = "\
local page=redis.call('SCAN',ARGV[1],'COUNT',ARGV[2],'TYPE','hash')
local told={page[1]}
for _,k in ipairs(page[2]) do
 if redis.call('HEXISTS',k,'c')==1 and redis.call('HEXISTS',k,'f')==1 then
  told[#told+1]=k
  told[#told+1]=redis.call('HSTRLEN',k,'d')
 end
end
return told"
}
