"""A stand-in for a vendor that allows each refresh token once, and logs everybody out who uses one twice."""

from __future__ import annotations

import itertools
import threading
import time


class OneUseVendor:
    def __init__(self, lasts: float = 3600.0, mark: str = "real") -> None:
        self.lasts = lasts  # seconds that a token is good for
        self.mark = mark  # a part of all tokens
        self.renewals = 0
        self.is_logged_out = False  # a refresh token came twice: all tokens are dead
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._refresh = ""
        self._good: dict[str, float] = {}  # access token -> its end

    def issue(self) -> dict[str, object]:
        """New tokens, as the answer to a person or to a program has them."""
        number = next(self._numbers)
        access, self._refresh = (f"sk-ant-{kind}01-{self.mark}-{number:04}-Hy7" for kind in ("oat", "ort"))
        self._good[access] = time.time() + self.lasts
        return {
            "token_type": "Bearer",
            "access_token": access,
            "refresh_token": self._refresh,
            "expires_in": self.lasts,
        }

    def renew(self, refresh: str) -> dict[str, object] | None:
        """The answer to a program with a refresh token, None for one that is not the last one."""
        with self._lock:
            if refresh != self._refresh or self.is_logged_out:
                self.is_logged_out = True
                return None
            self.renewals += 1
            return self.issue()

    def takes(self, access: str) -> bool:
        return not self.is_logged_out and time.time() < self._good.get(access, 0.0)

    def end(self) -> None:
        """Take no access token any more that was issued so far."""
        self._good.clear()


def claude_file(answer: dict[str, object]) -> dict[str, object]:
    """What Claude Code writes into its file after an answer."""
    until = int((time.time() + float(str(answer["expires_in"]))) * 1000)
    tokens = {"accessToken": answer["access_token"], "refreshToken": answer["refresh_token"], "expiresAt": until}
    scopes = ["user:inference", "user:profile"]
    return {"claudeAiOauth": {**tokens, "scopes": scopes, "subscriptionType": "max"}}
