-- The health of a GuardedDeployment, for Argo CD. It looks at nothing but the object's own status.
hs = {}
hs.status = "Progressing"
hs.message = "Waiting for Belay to report on this spec"

local function field(object, name)
  if type(object) == "table" then
    return object[name]
  end
  return nil
end

local status = field(obj, "status")
local generation = field(field(obj, "metadata"), "generation")
local observed = field(status, "observedGeneration")
if type(observed) ~= "number" or (type(generation) == "number" and observed < generation) then
  return hs
end

local ready, stalled
local conditions = field(status, "conditions")
if type(conditions) == "table" then
  for _, condition in ipairs(conditions) do
    if field(condition, "type") == "Ready" then
      ready = condition
    elseif field(condition, "type") == "Stalled" then
      stalled = condition
    end
  end
end

if type(field(ready, "message")) == "string" then
  hs.message = ready.message
end
if field(ready, "status") == "True" then
  hs.status = "Healthy"
elseif field(ready, "reason") == "Paused" then
  hs.status = "Suspended"
elseif field(stalled, "status") == "True" then
  hs.status = "Degraded"
  if type(stalled.message) == "string" then
    hs.message = stalled.message
  end
end
return hs
