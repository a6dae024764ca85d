// Lies in the container as a plugin of opencode (https://opencode.ai/docs/plugins): hands what it does to guest/hook.sh,
// in a process of its own that nobody waits for.
import { spawn } from "node:child_process"

const TOLD = new Set([
  ...["session.status", "session.idle", "session.error"],
  ...["permission.asked", "permission.updated", "permission.replied"],
  ...["question.asked", "question.replied", "question.rejected"],
])

export const Clincus = async () => ({
  event: async ({ event }) => {
    if (!TOLD.has(event?.type)) return
    try {
      const words = [event.type, "ring"]
      const hook = spawn(`${process.env.HOME}/.clincus/hook`, words, { detached: true, stdio: ["pipe", "ignore", "ignore"] })
      hook.on("error", () => {})
      hook.stdin.on("error", () => {})
      hook.stdin.end(JSON.stringify(event.properties ?? {}))
      hook.unref()
    } catch {}
  },
})
