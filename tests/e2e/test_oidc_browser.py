"""A login in a real browser, over https and from another site than the provider's: cookies are judged by Chromium."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.programs import Uvicorn, program
from tests.e2e.test_oidc import CLIENT_SECRET, login, upstream
from tests.support.browser import Browser, Page
from tests.support.certificates import Certificates
from tests.support.gateway import Gateway
from tests.support.provider import Provider

SIGN_IN = "document.querySelector('input[name=password]')"
STATUS = "fetch('/api', {headers: {Accept: 'application/json'}}).then(answer => answer.status)"


def sign_in(page: Page, user: str) -> None:
    page.until(SIGN_IN)
    page.type("input[name=user]", user)
    page.type("input[name=password]", f"of {user}")
    page.press("Enter")


def test_somebody_logs_in_works_and_logs_out(tmp_path: Path) -> None:
    certificate, key = Certificates(tmp_path).issue("localhost")
    folders = [tmp_path / name for name in ("chromium", "provider", "gateway")]
    for folder in folders:
        folder.mkdir()
    with (
        Uvicorn(upstream) as service,
        Provider(folders[1]) as provider,
        Browser(program("chromium"), folders[0]) as browser,
        Gateway(
            {
                "workers": 2,
                "listeners": {
                    "main": {
                        "address": "127.0.0.1:0",
                        "tls": {"certificates": [{"certificate": certificate, "key": key}]},
                    }
                },
                "routes": [
                    {
                        "name": "app",
                        "upstream": service.url,
                        "filters": {
                            "oidc": {
                                "issuer": provider.issuer,
                                "login": login(),
                                "claims_to_headers": {"sub": "X-User"},
                            }
                        },
                    }
                ],
            },
            folders[2],
        ) as gateway,
        browser.page() as page,
    ):
        site = f"https://localhost:{gateway.port()}"  # another site than 127.0.0.1
        provider.add_client(
            "web",
            client_secret=CLIENT_SECRET,
            grant_types=["authorization_code", "refresh_token"],
            redirect_uris=[f"{site}/oauth2/callback"],
            post_logout_redirect_uris=[f"{site}/"],
        )
        page.command("Security.setIgnoreCertificateErrors", ignore=True)

        page.go(f"{site}/deep?x=1")
        sign_in(page, "ann")
        page.until(f"location.href === '{site}/deep?x=1'")
        page.until("""document.body.innerText.includes('"x-user", "ann"')""")
        assert page.run("document.cookie") == ""
        [cookie] = [
            each for each in page.command("Network.getCookies")["cookies"] if each["name"].startswith("__Host-")
        ]
        assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")
        assert page.run(STATUS) == 200

        page.go(f"{site}/oauth2/logout")
        page.until("document.querySelector('button[name=logout]')")
        page.click("button[name=logout]")
        page.until(SIGN_IN)  # back, and sent to log in again: the provider has forgotten who it was
        sign_in(page, "bob")
        page.until(f"location.href === '{site}/'")
        page.until("""document.body.innerText.includes('"x-user", "bob"')""")

        page.command("Network.clearBrowserCookies")
        assert page.run(STATUS) == 401
