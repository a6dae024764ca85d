// In the container as a plugin of opencode (https://opencode.ai/docs/plugins): passes its events to guest/hook.sh,
// in a process of its own that nobody waits for.
import { spawn } from "node:child_process"
import { appendFile } from "node:fs"

const TOLD = new Set([
  ...["session.status", "session.idle", "session.error"],
  ...["permission.asked", "permission.updated", "permission.replied"],
  ...["question.asked", "question.replied", "question.rejected"],
])

// One process after the other, since on a busy host the second of two may be faster.
const MOST = 200 // that wait
const waiting = []
let running = false

const tell = (name, words) => {
  waiting.push([name, words])
  if (waiting.length > MOST) waiting.shift()
  if (!running) next()
}

const next = () => {
  running = waiting.length > 0
  if (!running) return
  const [name, words] = waiting.shift()
  let isOver = false
  const over = () => {
    if (isOver) return
    isOver = true
    next()
  }
  try {
    const how = { detached: true, stdio: ["pipe", "ignore", "ignore"] }
    const hook = spawn(`${process.env.HOME}/.clincus/hook`, [name, "ring", `from=${process.pid}`], how)
    hook.on("error", over)
    hook.on("exit", over)
    hook.stdin.on("error", () => {})
    hook.stdin.end(JSON.stringify(words ?? {}))
    hook.unref()
  } catch {
    over()
  }
}

// The usage of each answer, for clincus_features/cost/dialects.py; it is saved with the conversation.
const USAGE = `${process.env.HOME}/.local/share/opencode/clincus-usage.jsonl`
const counted = new Set()

const account = ({ id, role, time, tokens, cost, modelID }) => {
  if (role !== "assistant" || !time?.completed || !tokens || counted.has(id)) return
  counted.add(id)
  const { input, output, reasoning, cache } = tokens
  const used = { input, output, reasoning, cache_read: cache?.read, cache_write: cache?.write }
  appendFile(USAGE, JSON.stringify({ id, at: time.completed, model: modelID, cost, ...used }) + "\n", () => {})
}

// Sessions of sub-agents: the turn that they are a part of goes on when they rest or fail. Their questions are for the
// person, so they are reported.
const ASKED = /^(permission|question)\./
const isPart = new Map() // session -> whether it has a parent
const note = (info) => info?.id && isPart.set(info.id, Boolean(info.parentID))

export const Clincus = async ({ client } = {}) => {
  const isSubAgent = async (id) => {
    if (id && !isPart.has(id)) note((await client?.session.get({ path: { id } }))?.data)
    return isPart.get(id) ?? false
  }
  // One after the other, since it takes time to ask for a session. opencode waits for none of it.
  let last = Promise.resolve()
  const inTurn = (work) => {
    last = last.then(work).catch(() => {})
  }
  return {
    event: async ({ event }) => {
      const { type, properties } = event ?? {}
      inTurn(async () => {
        if (type === "session.created" || type === "session.updated") note(properties.info)
        if (type === "session.deleted") isPart.delete(properties.info?.id)
        if (type === "message.updated") account(properties.info)
        if (!TOLD.has(type)) return
        const isWhole = ASKED.test(type) || !(await isSubAgent(properties?.sessionID).catch(() => false))
        if (isWhole) tell(type, properties)
      })
    },
    // A person's prompt, in the words of the other tools' hooks.
    "chat.message": async (input, output) => {
      const texts = (output?.parts ?? []).filter((part) => part.type === "text" && !part.synthetic)
      const prompt = texts.map((part) => part.text).join("\n")
      inTurn(async () => {
        if (!(await isSubAgent(input?.sessionID).catch(() => false))) tell("UserPromptSubmit", { prompt })
      })
    },
  }
}
