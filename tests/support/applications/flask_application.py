"""Flask as its manual has it behind a proxy: WSGI, behind `ProxyFix`."""

from flask import Flask, redirect, request, url_for
from werkzeug.middleware.proxy_fix import ProxyFix

app = Flask(__name__)
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_port=1, x_prefix=1)


@app.get("/folder/")
def folder():
    return url_for("folder", _external=True)


@app.get("/moved")
def moved():
    return redirect(url_for("folder"))


@app.get("/client")
def client():
    return request.remote_addr
