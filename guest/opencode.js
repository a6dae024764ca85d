// Lies in the container as a plugin of opencode (https://opencode.ai/docs/plugins): hands what it does to guest/hook.sh,
// in a process of its own that nobody waits for.
import { spawn } from "node:child_process"

const TOLD = new Set([
  ...["session.status", "session.idle", "session.error"],
  ...["permission.asked", "permission.updated", "permission.replied"],
  ...["question.asked", "question.replied", "question.rejected"],
])

const tell = (name, words) => {
  try {
    const how = { detached: true, stdio: ["pipe", "ignore", "ignore"] }
    const hook = spawn(`${process.env.HOME}/.clincus/hook`, [name, "ring"], how)
    hook.on("error", () => {})
    hook.stdin.on("error", () => {})
    hook.stdin.end(JSON.stringify(words ?? {}))
    hook.unref()
  } catch {}
}

export const Clincus = async () => ({
  event: async ({ event }) => {
    if (TOLD.has(event?.type)) tell(event.type, event.properties)
  },
  // What a person has sent, in the words of the other tools' hooks.
  "chat.message": async (_, output) => {
    const texts = (output?.parts ?? []).filter((part) => part.type === "text" && !part.synthetic)
    tell("UserPromptSubmit", { prompt: texts.map((part) => part.text).join("\n") })
  },
})
