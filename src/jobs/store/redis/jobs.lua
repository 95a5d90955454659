-- Every change of the shared store, each as one step: a script runs alone, so whatever it finds is still so when it
-- writes. What is waiting or running stands in one stream per owner, read by one group of servers; an entry that was
-- read and not acknowledged is being worked on, and how long nobody has touched it tells whether its server lives.
--
--   job:ID       everything about a job            all:OWNER   its jobs, in the order in which they came
--   q:OWNER      the stream                        counts      jobs by status
--   result:ID    the record                        results, sizes, kept   what results take, oldest first
--   queued, running, since, turns                  by owner: how many, since which job, when they had their turn
--   ended        what is over, by its end          expired:ID  the owner of what was forgotten
--   hook:ID, hooks:JOB, attempts:HOOK, due         webhooks, and when the next ones are to be sent
--
-- ARGV: the prefix of all keys, the name of the step, its arguments.

local P, GROUP = ARGV[1], 'servers'
local REMEMBERED = 30 * 24 * 3600 * 1000
local call = redis.call
local steps = {}

local function field(id, name) return call('HGET', P .. 'job:' .. id, name) end
local function over(status) return status == 'completed' or status == 'failed' or status == 'cancelled' end

-- A job goes from one state to another; either may be none.
local function move(id, owner, from, to)
  for status, by in pairs({[from or ''] = -1, [to or ''] = 1}) do
    if status ~= '' then
      call('HINCRBY', P .. 'counts', status, by)
      if not over(status) and call('HINCRBY', P .. status, owner, by) <= 0 then
        call('HDEL', P .. status, owner)
      end
    end
  end
  if to == 'queued' then
    call('HSETNX', P .. 'since', owner, field(id, 'seq'))
  elseif from == 'queued' and call('HEXISTS', P .. 'queued', owner) == 0 then
    call('HDEL', P .. 'since', owner)
  end
end

local function enqueue(id, owner)
  local stream = P .. 'q:' .. owner
  -- It is there already, as a rule.
  redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  call('HSET', P .. 'job:' .. id, 'status', 'queued', 'entry', call('XADD', stream, '*', 'job', id))
end

local function leave(id, owner)
  local stream, entry = P .. 'q:' .. owner, field(id, 'entry')
  if not entry then return end
  redis.pcall('XACK', stream, GROUP, entry)
  call('XDEL', stream, entry)
  if call('XLEN', stream) == 0 then call('DEL', stream) end
  call('HDEL', P .. 'job:' .. id, 'entry')
end

local function set_due(hook, at)
  call('HSET', P .. 'hook:' .. hook, 'due', at)
  call('ZADD', P .. 'due', at, hook)
end

-- A job is over, and whoever wants to know of it is to be told: one step, whatever happens next.
local function finish(id, status, now, more)
  local owner, before = field(id, 'owner'), field(id, 'status')
  leave(id, owner)
  call('HSET', P .. 'job:' .. id, 'status', status, 'ended', now, unpack(more or {}))
  move(id, owner, before, status)
  call('ZADD', P .. 'ended', now, id)
  for _, hook in ipairs(call('LRANGE', P .. 'hooks:' .. id, 0, -1)) do
    if call('HEXISTS', P .. 'hook:' .. hook, 'due') == 0 then set_due(hook, now) end
  end
end

local function put_back(id, owner)
  leave(id, owner)
  enqueue(id, owner)
  move(id, owner, 'running', 'queued')
end

local function forget(id)
  local owner = field(id, 'owner')
  for _, hook in ipairs(call('LRANGE', P .. 'hooks:' .. id, 0, -1)) do
    call('DEL', P .. 'hook:' .. hook, P .. 'attempts:' .. hook)
    call('ZREM', P .. 'due', hook)
  end
  local size = call('HGET', P .. 'sizes', id)
  if size then
    call('DECRBY', P .. 'kept', size)
    call('HDEL', P .. 'sizes', id)
    call('ZREM', P .. 'results', id)
  end
  move(id, owner, field(id, 'status'), nil)
  call('ZREM', P .. 'ended', id)
  call('ZREM', P .. 'all:' .. owner, id)
  call('DEL', P .. 'job:' .. id, P .. 'result:' .. id, P .. 'hooks:' .. id)
  return owner
end

-- A claim is good for as long as nobody else has been given the job.
local function holds(id, attempt)
  return field(id, 'status') == 'running' and field(id, 'attempts') == attempt
end

-- Whether it ended just so under this claim: the answer was lost on its way, and whoever asks again may have it.
local function ended(id, attempt, status)
  return field(id, 'status') == status and field(id, 'attempts') == attempt and 1 or 0
end

local function add_hook(id, job, due, fields)
  call('HSET', P .. 'hook:' .. id, 'id', id, 'job', job, 'status', 'pending', 'tried', 0, unpack(fields))
  call('RPUSH', P .. 'hooks:' .. job, id)
  if due then set_due(id, due) end
end

local function rest(from)
  local all = {}
  for n = from, #ARGV do all[#all + 1] = ARGV[n] end
  return all
end

-- id, owner, how many fields of the job, those, and the id and fields of a hook if there is one
function steps.add(id, owner, count)
  local all, hook = {}, rest(6 + tonumber(count))
  for n = 6, 5 + tonumber(count) do all[#all + 1] = ARGV[n] end
  local seq = call('INCR', P .. 'seq')
  call('HSET', P .. 'job:' .. id, 'id', id, 'owner', owner, 'seq', seq, 'attempts', 0, unpack(all))
  call('ZADD', P .. 'all:' .. owner, seq, id)
  enqueue(id, owner)
  move(id, owner, nil, 'queued')
  if #hook > 0 then add_hook(table.remove(hook, 1), id, nil, hook) end
end

function steps.find(id) return call('HGETALL', P .. 'job:' .. id) end

function steps.list(owner, status, before, limit)
  local most, found, page = '+inf', {}, 100
  if before ~= '' then
    local seq = call('ZSCORE', P .. 'all:' .. owner, before)
    if not seq then return found end
    most = '(' .. seq
  end
  for from = 0, math.huge, page do
    local ids = call('ZREVRANGEBYSCORE', P .. 'all:' .. owner, most, '-inf', 'LIMIT', from, page)
    for _, id in ipairs(ids) do
      if #found >= tonumber(limit) then return found end
      if status == '' or field(id, 'status') == status then found[#found + 1] = steps.find(id) end
    end
    if #ids < page then return found end
  end
end

function steps.claim(server, now)
  local best
  for _, owner in ipairs(call('HKEYS', P .. 'queued')) do
    local function number(name) return tonumber(call('HGET', P .. name, owner) or 0) end
    local this = {number('running'), number('turns'), number('since'), owner}
    for n = 1, 3 do
      if not best or this[n] < best[n] then best = this break end
      if this[n] > best[n] then break end
    end
  end
  if not best then return {} end
  local owner = best[4]
  call('HSET', P .. 'turns', owner, call('INCR', P .. 'turn'))
  local read = call('XREADGROUP', 'GROUP', GROUP, server, 'COUNT', 1, 'STREAMS', P .. 'q:' .. owner, '>')
  if not read then return {} end
  local id = read[1][2][1][2][2]
  call('HINCRBY', P .. 'job:' .. id, 'attempts', 1)
  call('HSET', P .. 'job:' .. id, 'status', 'running', 'started', now, 'progress', '0')
  move(id, owner, 'queued', 'running')
  return steps.find(id)
end

function steps.progress(server, id, attempt, percent)
  if not holds(id, attempt) then return 0 end
  call('HSET', P .. 'job:' .. id, 'progress', percent)
  -- Its server lives.
  call('XCLAIM', P .. 'q:' .. field(id, 'owner'), GROUP, server, 0, field(id, 'entry'), 'JUSTID')
  return 1
end

function steps.put_back(id, attempt)
  if not holds(id, attempt) then return 0 end
  call('HINCRBY', P .. 'job:' .. id, 'attempts', -1)
  put_back(id, field(id, 'owner'))
  return 1
end

function steps.complete(id, attempt, now, seconds, record)
  if not holds(id, attempt) then return ended(id, attempt, 'completed') end
  finish(id, 'completed', now, {'duration', seconds})
  call('SET', P .. 'result:' .. id, record)
  call('HSET', P .. 'sizes', id, #record)
  call('INCRBY', P .. 'kept', #record)
  call('ZADD', P .. 'results', now, id)
  return 1
end

function steps.fail(id, attempt, now, code, message)
  if not holds(id, attempt) then return ended(id, attempt, 'failed') end
  finish(id, 'failed', now, {'error_code', code, 'error_message', message})
  return 1
end

function steps.cancel(id, now)
  local status = field(id, 'status')
  if status and not over(status) then finish(id, 'cancelled', now) end
  return steps.find(id)
end

function steps.remove(id)
  local status = field(id, 'status')
  if not status or not over(status) then return 0 end
  forget(id)
  return 1
end

function steps.result(id) return call('GET', P .. 'result:' .. id) end

function steps.recover(server, attempts, now, idle, code, message)
  local count = 0
  for _, owner in ipairs(call('HKEYS', P .. 'running')) do
    local stream, cursor = P .. 'q:' .. owner, '0-0'
    repeat
      local found = redis.pcall('XAUTOCLAIM', stream, GROUP, server, idle, cursor, 'COUNT', 100)
      -- The stream went with its last entry.
      if found.err then break end
      cursor = found[1]
      for _, entry in ipairs(found[2]) do
        local id = entry[2][2]
        if tonumber(field(id, 'attempts')) >= tonumber(attempts) then
          finish(id, 'failed', now, {'error_code', code, 'error_message', message})
        else
          put_back(id, owner)
        end
        count = count + 1
      end
    until cursor == '0-0'
  end
  return count
end

function steps.sweep(before, bytes)
  local gone = {}
  local function expire(id)
    call('SET', P .. 'expired:' .. id, forget(id), 'PX', REMEMBERED)
    gone[#gone + 1] = id
  end
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'ended', '-inf', '(' .. before, 'LIMIT', 0, 1000)) do expire(id) end
  while #gone < 1000 and tonumber(call('GET', P .. 'kept') or 0) > tonumber(bytes) do
    local oldest = call('ZRANGE', P .. 'results', 0, 0)[1]
    if not oldest then break end
    expire(oldest)
  end
  return gone
end

function steps.expired(id, owner)
  return call('GET', P .. 'expired:' .. id) == owner and 1 or 0
end

function steps.counts() return {call('ZCARD', P .. 'due'), call('HGETALL', P .. 'counts')} end

-- id, job, created, fields
function steps.add_hook(id, job, created)
  local status = field(job, 'status')
  if not status then return end
  add_hook(id, job, over(status) and created, rest(6))
end

function steps.due(now, limit, lease)
  local due = {}
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'due', '-inf', now, 'LIMIT', 0, limit)) do
    set_due(id, lease)
    due[#due + 1] = {call('HGETALL', P .. 'hook:' .. id), steps.find(call('HGET', P .. 'hook:' .. id, 'job'))}
  end
  return due
end

function steps.attempted(id, status, due, attempt, log)
  local hook = P .. 'hook:' .. id
  if call('EXISTS', hook) == 0 then return end
  call('HINCRBY', hook, 'tried', 1)
  call('HSET', hook, 'status', status)
  call('HDEL', hook, 'due')
  call('ZREM', P .. 'due', id)
  if due ~= '' then set_due(id, due) end
  call('RPUSH', P .. 'attempts:' .. id, attempt)
  call('LTRIM', P .. 'attempts:' .. id, -tonumber(log), -1)
end

function steps.deliveries(job)
  local logs = {}
  for _, id in ipairs(call('LRANGE', P .. 'hooks:' .. job, 0, -1)) do
    logs[#logs + 1] = {call('HGETALL', P .. 'hook:' .. id), call('LRANGE', P .. 'attempts:' .. id, 0, -1)}
  end
  return logs
end

function steps.job_of_hook(id) return call('HGET', P .. 'hook:' .. id, 'job') end

function steps.redeliver(id, now)
  local job = call('HGET', P .. 'hook:' .. id, 'job')
  local status = job and field(job, 'status')
  if not status or not over(status) then return 0 end
  call('HSET', P .. 'hook:' .. id, 'status', 'pending', 'tried', 0)
  set_due(id, now)
  return 1
end

return steps[ARGV[2]](unpack(ARGV, 3))
