defmodule Leash.RecipesTest do
  @moduledoc """
  The blocks of guides/recipes.md with the real programs. A test is skipped, with the reason,
  where its program is not installed.
  """

  use Leash.Test.Case, async: false

  # Since Elixir 1.15 Mix leaves out of the code path what the project does not name.
  @compile {:no_warn_undefined, :httpc}

  import Leash.Test.Recipe, only: [needs: 1]

  alias Leash.Test.Recipe

  @moduletag :slow
  @moduletag timeout: 180_000

  setup do
    Process.flag(:trap_exit, true)
    Process.put(:decoy, start_decoy("recipes"))
    %{dir: tmp_dir!(), port: Recipe.free_port()}
  end

  # Every process of this run's trees, by the OS's view.
  defp processes do
    for %{worker: number} <- Leash.list(),
        %{members: members} <- [Leash.Tree.info(number)],
        %{os_pid: pid} <- members,
        identity = Observer.identity(pid),
        do: identity
  end

  defp supervise(children) do
    {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
    supervisor
  end

  defp assert_ended(processes) do
    assert processes != []
    assert_eventually(fn -> not Enum.any?(processes, &Observer.alive?/1) end, 10_000)
    assert_none_left()
  end

  defp assert_none_left do
    assert_eventually(fn -> Leash.list() == [] end)
    assert_unharmed(Process.get(:decoy))
  end

  defp npm!(dir, package) do
    arguments = ["install", "--silent", "--no-audit", "--no-fund", "--prefix", dir, package]
    System.cmd("npm", arguments, stderr_to_stdout: true)
  end

  needs(["node", "npm"])

  test "esbuild watches until the endpoint's process ends", %{dir: dir} do
    {_output, 0} = npm!(dir, "esbuild")
    File.mkdir_p!(Path.join(dir, "js"))
    source = Path.join(dir, "js/app.js")
    File.write!(source, "console.log('bow')\n")

    {_config, variables} = Recipe.run("recipes", "Phoenix watchers", assets: dir)
    {module, function, [program | rest]} = variables[:config][:watchers][:esbuild]
    arguments = [Path.join(dir, program) | rest]

    watcher = spawn(fn -> apply(module, function, arguments) end)
    bundle = Path.join(dir, "out/app.js")
    assert_eventually(fn -> match?({:ok, _}, File.read(bundle)) end, 30_000)
    File.write!(source, "console.log('wow')\n")
    assert_eventually(fn -> File.read!(bundle) =~ "wow" end, 30_000)

    processes = processes()
    Process.exit(watcher, :shutdown)
    assert_ended(processes)
  end

  @server """
  import http.server, os, signal, sys
  if os.fork() == 0:
      signal.pause()
  class Handler(http.server.BaseHTTPRequestHandler):
      def do_GET(self):
          self.send_response(503 if os.path.exists(sys.argv[0] + '.ill') else 200)
          self.end_headers()
      def log_message(self, *args):
          pass
  http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
  """

  test "a model server is ready, is started anew when it is ill, and ends", context do
    script = Path.join(context.dir, "server.py")
    File.write!(script, @server)
    variables = [script: script, port: context.port]
    {_children, variables} = Recipe.run("recipes", "A model server", variables)
    supervisor = supervise(variables[:children])
    first = processes()
    assert length(first) == 2

    File.write!(script <> ".ill", "")
    assert_eventually(fn -> not Enum.any?(first, &Observer.alive?/1) end, 20_000)
    File.rm!(script <> ".ill")
    assert_eventually(fn -> length(processes()) == 2 end, 20_000)

    second = processes()
    assert first -- second == first
    Supervisor.stop(supervisor)
    assert_ended(second)
  end

  needs(["ffmpeg"])

  test "ffmpeg takes samples and gives a file", %{dir: dir} do
    samples = Stream.repeatedly(fn -> :binary.copy(<<0, 8>>, 4_000) end) |> Stream.take(20)
    path = Path.join(dir, "out.wav")
    Recipe.run("recipes", "ffmpeg", samples: samples, path: path)
    assert <<"RIFF", _size::binary-size(4), "WAVE", _rest::binary>> = File.read!(path)
    assert File.stat!(path).size > 20 * 8_000
    assert_none_left()
  end

  needs(["chromedriver", "chromium"])

  test "a browser of a driver ends with the driver", %{port: port} do
    {_children, variables} = Recipe.run("recipes", "Headless Chrome", port: port)
    supervisor = supervise(variables[:children])
    {:ok, _apps} = Application.ensure_all_started(:inets)

    options = ~s|{"args": ["--headless", "--no-sandbox", "--disable-gpu"]}|
    body = ~s|{"capabilities": {"alwaysMatch": {"goog:chromeOptions": #{options}}}}|
    url = ~c"http://127.0.0.1:#{port}/session"
    request = {url, [], ~c"application/json", body}
    assert {:ok, {{_, 200, _}, _headers, _body}} = :httpc.request(:post, request, [], [])

    processes = processes()
    assert length(processes) > 3
    Supervisor.stop(supervisor)
    assert_ended(processes)
  end

  needs(["chromium"])

  test "a browser prints one page", %{dir: dir} do
    path = Path.join(dir, "page.html")
    File.write!(path, "<p id=a></p><script>a.textContent = 'bow' + 'wow'</script>")
    {_match, variables} = Recipe.run("recipes", "Headless Chrome", [url: "file://#{path}"], 1)
    assert variables[:html] =~ "bowwow"
    assert_none_left()
  end

  needs(["node", "npm"])

  test "an MCP server answers in lines, and ends with its client", %{dir: dir} do
    {_output, 0} = npm!(dir, "@modelcontextprotocol/server-memory")

    {{:module, client, _code, _last}, _variables} =
      Recipe.run("recipes", "A server over stdio", [])

    command = {Path.join(dir, "node_modules/.bin/mcp-server-memory"), []}
    {:ok, server} = client.start_link(command)

    params =
      ~s|{"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": | <>
        ~s|{"name": "leash", "version": "1"}}|

    request = ~s|{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": #{params}}|
    assert client.call(server, request) =~ "serverInfo"

    processes = processes()
    Process.exit(server, :kill)
    assert_ended(processes)
  after
    :code.purge(MyApp.Server)
    :code.delete(MyApp.Server)
  end

  # A program with a prompt that starts others, as agents do.
  needs(["python3"])

  test "an agent in a terminal ends with what it has started" do
    request =
      "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True) and 'done'"

    variables = [program: "python3", args: ["-q", "-i"], prompt: ~r/>>> /, request: request]
    {:ok, variables} = Recipe.run("recipes", "An agent in a terminal", variables)
    agent = variables[:agent]
    assert_eventually(fn -> length(processes()) == 2 end)
    processes = processes()
    assert {:ok, _exit} = Leash.Worker.stop(agent)
    assert_ended(processes)
  end

  for {how, timeout} <- [{"its own timeout", 300}, {"the time limit of the queue", :infinity}] do
    test "a job ends at #{how}, with its tree" do
      {job, _variables} = Recipe.run("recipes", "A job with a timeout", timeout: unquote(timeout))
      {pid, monitor} = spawn_monitor(job)
      assert_eventually(fn -> length(processes()) == 2 end)
      processes = processes()
      if unquote(timeout) == :infinity, do: :timer.exit_after(300, pid, :timeout)
      assert_receive {:DOWN, ^monitor, :process, ^pid, _reason}, 10_000
      assert_ended(processes)
    end
  end

  test "a script installs Leash, and its worker ends with it", %{dir: dir} do
    path = Path.join(dir, "script.exs")
    [block] = Recipe.blocks("recipes", "Mix.install and Livebook")
    root = Path.expand("../..", __DIR__)
    File.write!(path, "leash = #{inspect(root)}\n" <> block)

    env = [
      {"LEASH_PREBUILT", Leash.Build.Sandbox.artefacts()},
      {"MIX_INSTALL_DIR", Path.join(dir, "install")},
      {"LEASH_RUN_DIR", Path.join(dir, "runs")},
      {"MIX_ENV", nil}
    ]

    {output, 0} = System.cmd("elixir", [path], env: env, stderr_to_stdout: true)
    assert [_all, pid] = Regex.run(~r/program (\d+)/, output)
    assert_eventually(fn -> Observer.identity(String.to_integer(pid)) == nil end)
  end

  needs(["redis-server", "redis-cli"])

  test "redis for tests is ready, and ends", %{dir: dir, port: port} do
    # The block's supervisor is linked to the calling process.
    {{:ok, supervisor}, _} = Recipe.run("recipes", "Services for tests", port: port, dir: dir)
    assert {"PONG\n", 0} = System.cmd("redis-cli", ["-p", "#{port}", "ping"])
    processes = processes()
    Supervisor.stop(supervisor)
    assert_ended(processes)
  end

  @initdb "/usr/lib/postgresql/*/bin/initdb" |> Path.wildcard() |> List.last()

  if @initdb == nil do
    @tag skip: "postgres is not installed"
  end

  test "postgres for tests is ready, and ends in order", %{dir: dir, port: port} do
    File.chmod!(dir, 0o711)
    data = Path.join(dir, "data")
    File.mkdir!(data)
    root? = System.cmd("id", ["-u"]) == {"0\n", 0}
    if root?, do: {_output, 0} = System.cmd("chown", ["postgres", data])

    [_redis, block] = Recipe.blocks("recipes", "Services for tests")
    # Root has to be another user.
    block = if root?, do: as_postgres(block), else: block
    {_options, variables} = Code.eval_string(block, initdb: @initdb, data: data, port: port)

    supervisor = supervise([{Leash.Worker, variables[:postgres]}])
    # Its checkpointer, its writers and its launcher.
    assert_eventually(fn -> length(processes()) > 3 end, 10_000)
    processes = processes()
    Supervisor.stop(supervisor)
    assert_ended(processes)
    assert File.exists?(Path.join(data, "PG_VERSION"))
    refute File.exists?(Path.join(data, "postmaster.pid"))
  end

  defp as_postgres(block) do
    block
    |> String.replace("stderr_to_stdout: true", "stderr_to_stdout: true, user: \"postgres\"")
    |> String.replace(
      "name: MyApp.TestPostgres,",
      "name: MyApp.TestPostgres, user: \"postgres\","
    )
  end

  needs(["ssh", "sshd", "ssh-keygen"])

  test "ssh runs a program there", %{dir: dir, port: port} do
    for name <- ["host", "me"] do
      arguments = ["-q", "-t", "ed25519", "-N", "", "-f", Path.join(dir, name)]
      {_output, 0} = System.cmd("ssh-keygen", arguments)
    end

    File.cp!(Path.join(dir, "me.pub"), Path.join(dir, "authorized"))
    # Where its service makes it.
    if System.cmd("id", ["-u"]) == {"0\n", 0}, do: File.mkdir_p!("/run/sshd")

    File.write!(Path.join(dir, "sshd_config"), """
    HostKey #{dir}/host
    AuthorizedKeysFile #{dir}/authorized
    PidFile none
    StrictModes no
    UsePAM no
    PermitRootLogin yes
    """)

    sshd = System.find_executable("sshd")
    arguments = ["-D", "-e", "-f", "#{dir}/sshd_config", "-p", "#{port}", "-o"]

    supervisor =
      supervise([
        {Leash.Worker,
         command: sshd,
         args: arguments ++ ["ListenAddress=127.0.0.1"],
         ready: {:tcp, port},
         on_output: fn _stream, _data -> :ok end}
      ])

    ssh =
      ["-F", "none", "-i", "#{dir}/me", "-p", "#{port}", "-o", "StrictHostKeyChecking=no"] ++
        ["-o", "UserKnownHostsFile=/dev/null", "127.0.0.1"]

    [block | _] = Recipe.blocks("recipes", "ssh and sudo")
    assert {{"there\r\n", 0}, _variables} = Code.eval_string(block, ssh: ssh)
    processes = processes()
    Supervisor.stop(supervisor)
    assert_ended(processes)
  end

  needs(["sudo"])

  test "sudo runs a program of another user" do
    {result, _variables} = Recipe.run("recipes", "ssh and sudo", [], 1)
    assert result == {"nobody\n", 0}
    assert_none_left()
  end
end
