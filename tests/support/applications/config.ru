# Rack under Puma: redirects to the URL that it believes it has, and says which that is.
require 'rack'

run(lambda do |env|
  request = Rack::Request.new(env)
  if request.path == '/old'
    [302, { 'location' => "#{request.base_url}/new" }, []]
  else
    [200, { 'content-type' => 'text/plain' }, ["#{request.url} #{request.ip}"]]
  end
end)
