-- The sliding window counter of window.rs, for one key and all of its windows at once.
-- KEYS[1]: a hash. ARGV: the time in milliseconds, 0 for the server's own, which all servers of ours then share; what
-- there must be room for, 0 to count in any case; what to count; then each window's length and limit.
-- Answers whether there was room, the time, and each window's start, count, and count of the window before.
local function text(number) return string.format('%.0f', number) end

local now, need, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local counts, room, longest = {}, true, 0
for at = 4, #ARGV, 2 do
  local name, window, limit = ARGV[at], tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local kept = redis.call('HMGET', KEYS[1], name .. ':start', name .. ':current', name .. ':previous')
  local start, current, previous = tonumber(kept[1]) or 0, tonumber(kept[2]) or 0, tonumber(kept[3]) or 0
  local passed = math.max(now - start, 0)
  if passed >= 2 * window or (current == 0 and previous == 0) then
    start, current, previous = now, 0, 0
  elseif passed >= window then
    start, current, previous = start + window, 0, current
  end
  passed = math.min(math.max(now - start, 0), window - 1)
  local used = current + math.floor(previous * (window - 1 - passed) / window)
  if used + need > limit then room = false end
  longest = math.max(longest, window)
  counts[#counts + 1] = { name, start, current, previous }
end

local answer = { room and 1 or 0, now }
for _, count in ipairs(counts) do
  local name, start, current, previous = unpack(count)
  if cost > 0 and (room or need == 0) then
    current = current + cost
    redis.call('HSET', KEYS[1], name .. ':start', text(start), name .. ':current', text(current),
      name .. ':previous', text(previous))
  end
  answer[#answer + 1] = start
  answer[#answer + 1] = current
  answer[#answer + 1] = previous
end
if cost > 0 and (room or need == 0) then
  redis.call('PEXPIRE', KEYS[1], text(2 * longest))
end
return answer
