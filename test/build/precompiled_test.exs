defmodule Leash.Build.PrecompiledTest do
  # Serial: Mix in other VMs takes both cores, and tests that measure times run beside async ones.
  use ExUnit.Case, async: false

  # Since Elixir 1.15 Mix leaves out of the code path what the project does not name.
  @compile {:no_warn_undefined, [:ssl, :public_key]}

  @moduletag :slow

  alias Leash.Build.Sandbox

  @moduletag :build
  @moduletag :tmp_dir
  @moduletag timeout: 120_000

  setup_all do
    if function_exported?(Mix, :ensure_application!, 1),
      do: Enum.each([:public_key, :ssl], &apply(Mix, :ensure_application!, [&1]))

    :ok
  end

  setup %{tmp_dir: tmp} do
    Sandbox.skeleton!(tmp)
    archive = Sandbox.archive!(Path.join(tmp, Sandbox.archive_name()))
    sums!(tmp, File.read!(archive))
    %{env: Sandbox.path_without_cargo!(tmp), archive: archive, body: File.read!(archive)}
  end

  defp sums!(tmp, contents) do
    sum = Base.encode16(:crypto.hash(:sha256, contents), case: :lower)
    File.write!(Path.join(tmp, "mix/SHA256SUMS"), "#{sum}  #{Sandbox.archive_name()}\n")
  end

  defp installed(directory) do
    case File.ls(Path.join(directory, "_build/prod/lib/leash/priv")) do
      {:ok, names} -> Enum.sort(names)
      {:error, :enoent} -> []
    end
  end

  defp refusal(directory, env) do
    sentence = Sandbox.refusal!(directory, env)
    assert installed(directory) == []
    sentence
  end

  # Answers each request with `answer`, and tells this test its head.
  defp serve(transport \\ :gen_tcp, options \\ [], answer) do
    me = self()
    options = [:binary, active: false, reuseaddr: true, ip: {127, 0, 0, 1}] ++ options
    {:ok, listener} = transport.listen(0, options)

    {:ok, {_address, port}} =
      if transport == :ssl, do: :ssl.sockname(listener), else: :inet.sockname(listener)

    start_supervised!({Task, fn -> accept(transport, listener, answer, me) end})
    port
  end

  defp accept(transport, listener, answer, test) do
    with {:ok, socket} <- connection(transport, listener) do
      {:ok, head} = transport.recv(socket, 0)
      send(test, {:asked, head})
      transport.send(socket, answer)
      transport.close(socket)
    end

    accept(transport, listener, answer, test)
  end

  defp connection(:gen_tcp, listener), do: :gen_tcp.accept(listener)

  defp connection(:ssl, listener) do
    {:ok, socket} = :ssl.transport_accept(listener)
    :ssl.handshake(socket)
  end

  defp ok(body), do: ["HTTP/1.1 200 OK\r\ncontent-length: #{byte_size(body)}\r\n\r\n", body]

  defp url(port, path \\ "/v{version}/{target}/{archive}"), do: "http://127.0.0.1:#{port}#{path}"

  test "an archive is downloaded once, checked, and kept for the next commands", context do
    %{tmp_dir: tmp, env: env} = context
    port = serve(ok(context.body))
    env = [{"LEASH_PRECOMPILED_URL", url(port)} | env]
    output = Sandbox.mix!(tmp, ["compile"], env)
    [target, version] = Enum.map(~w(target version), &part/1)
    address = "127.0.0.1:#{port}/v#{version}/#{target}/#{Sandbox.archive_name()}"
    assert output =~ "Downloading http://#{address}\n"
    assert_received {:asked, "GET /v" <> _rest}
    assert installed(tmp) == ["leash", "leash-shim", "leash_nif.so"]

    assert Sandbox.mix!(tmp, ["compile"], env) == ""
    Sandbox.mix!(tmp, ["compile"], env ++ [{"MIX_ENV", "dev"}, {"LEASH_PRECOMPILED_URL", nil}])
    assert File.exists?(Path.join(tmp, "_build/dev/lib/leash/priv/leash_nif.so"))
    refute_received {:asked, _head}
  end

  defp part(name) do
    Regex.named_captures(
      ~r/^leash-(?<version>.*?)-(?<target>\w+-unknown-linux-\w+)\./,
      Sandbox.archive_name()
    )[name]
  end

  test "an application names the place and the checksums in its configuration", context do
    %{tmp_dir: tmp, env: env} = context
    app = Path.join(tmp, "app")
    for dir <- ~w(lib config archives), do: File.mkdir_p!(Path.join(app, dir))
    File.rename!(context.archive, Path.join([app, "archives", Sandbox.archive_name()]))
    File.rename!(Path.join(tmp, "mix/SHA256SUMS"), Path.join(app, "archives/SHA256SUMS"))

    File.write!(Path.join(app, "mix.exs"), """
    defmodule Kennel.MixProject do
      use Mix.Project
      def project, do: [app: :kennel, version: "1.0.0", deps: [{:leash, path: ".."}]]
    end
    """)

    File.write!(Path.join(app, "config/config.exs"), """
    import Config
    config :leash,
      precompiled: "file://#{app}/archives/{archive}",
      precompiled_sums: "archives/SHA256SUMS"
    """)

    Sandbox.mix!(app, ["compile"], env)
    assert installed(app) == ["leash", "leash-shim", "leash_nif.so"]
  end

  test "a file with another checksum is refused", %{tmp_dir: tmp} = context do
    port = serve(ok(context.body))
    env = [{"LEASH_PRECOMPILED_URL", url(port)} | context.env]
    sums!(tmp, "another file")
    assert refusal(tmp, env) =~ ~r/ has the SHA-256 [0-9a-f]{64}, and \S+SHA256SUMS says /

    File.write!(Path.join(tmp, "mix/SHA256SUMS"), "")
    assert refusal(tmp, env) =~ "SHA256SUMS has no line for #{Sandbox.archive_name()}."

    File.rm!(Path.join(tmp, "mix/SHA256SUMS"))

    assert refusal(tmp, env) =~
             "has nothing to be checked against (#{tmp}/mix/SHA256SUMS: no such"
  end

  test "a download that is cut off is refused", %{tmp_dir: tmp} = context do
    half = binary_part(context.body, 0, 1_000)
    [head, _body] = ok(context.body)
    port = serve([head, half])

    assert refusal(tmp, [{"LEASH_PRECOMPILED_URL", url(port)} | context.env]) =~
             "cannot be downloaded: the connection was closed before its end; set LEASH_PREBUILT to a copy of"

    # A server that does not say how much there is.
    stop_supervised!(Task)
    port = serve(["HTTP/1.0 200 OK\r\n\r\n", half])
    env = [{"LEASH_PRECOMPILED_URL", url(port)} | context.env]
    assert refusal(tmp, env) =~ "nothing of it was used"
  end

  test "an answer that is no archive, and a URL that is none, are one sentence each", context do
    port = serve("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    assert refusal(context.tmp_dir, [{"LEASH_PRECOMPILED_URL", url(port)} | context.env]) =~
             ~r/^http\S+ cannot be downloaded: 404 Not Found; set LEASH_PREBUILT .*\.$/

    assert refusal(context.tmp_dir, [{"LEASH_PRECOMPILED_URL", "ftp://x/{archive}"} | context.env]) =~
             "expected one that begins with https://, http:// or file://."

    assert refusal(context.tmp_dir, [
             {"LEASH_PRECOMPILED_URL", "file:///none/{archive}"} | context.env
           ]) =~
             ~r"^/none/\S+ cannot be read: no such file or directory; set LEASH_PREBUILT"
  end

  test "https is checked against the authorities of SSL_CERT_FILE", context do
    %{tmp_dir: tmp, env: env} = context
    {:ok, _started} = Application.ensure_all_started(:ssl)
    # What the defaults of OTP 25 make here is refused as too weak.
    strong = [key: {:namedCurve, :secp256r1}, digest: :sha256]
    chain = %{root: strong, intermediates: [], peer: strong}
    server = %{chain | peer: [{:extensions, [alternative_name()]} | strong]}

    %{server_config: server, client_config: client} =
      :public_key.pkix_test_data(%{server_chain: server, client_chain: chain})

    port = serve(:ssl, server, ok(context.body))
    env = [{"LEASH_PRECOMPILED_URL", "https://localhost:#{port}/{archive}"} | env]

    assert refusal(tmp, env) =~ "no connection to localhost:#{port} (TLS: unknown_ca); set"

    authorities = Path.join(tmp, "authorities.pem")
    entries = for der <- client[:cacerts], do: {:Certificate, der, :not_encrypted}
    File.write!(authorities, :public_key.pem_encode(entries))
    Sandbox.mix!(tmp, ["compile"], [{"SSL_CERT_FILE", authorities} | env])
    assert installed(tmp) == ["leash", "leash-shim", "leash_nif.so"]

    # The same authorities, and a name that is not the certificate's.
    File.rm_rf!(Path.join(tmp, "_build"))

    url = {"LEASH_PRECOMPILED_URL", "https://127.0.0.1:#{port}/{archive}"}
    env = env ++ [url, {"SSL_CERT_FILE", authorities}]
    assert refusal(tmp, env) =~ "no connection to 127.0.0.1:#{port} (TLS: handshake_failure)"
  end

  # id-ce-subjectAltName of RFC 5280.
  defp alternative_name, do: {:Extension, {2, 5, 29, 17}, false, [dNSName: ~c"localhost"]}

  test "a proxy is asked, with its password, unless no_proxy has the host", context do
    %{tmp_dir: tmp, env: env} = context
    port = serve(ok(context.body))
    proxy = {"http_proxy", "http://dog:b%6Fne@127.0.0.1:#{port}"}
    target = {"LEASH_PRECOMPILED_URL", "http://files.leash.invalid/{archive}"}
    Sandbox.mix!(tmp, ["compile"], [proxy, target | env])
    assert_received {:asked, "GET http://files.leash.invalid/leash-" <> rest}
    assert rest =~ ~r/^proxy-authorization: Basic #{Base.encode64("dog:bone")}\r$/mi

    File.rm_rf!(Path.join(tmp, "_build"))

    assert refusal(tmp, [proxy, target, {"no_proxy", "localhost, leash.invalid"} | env]) =~
             "no connection to files.leash.invalid:80"

    refute_received {:asked, _head}
  end

  @tag needs: :root
  test "without a network, it is one sentence that says what to do", context do
    {output, 1} =
      System.cmd("unshare", ["--net", "mix", "compile"],
        cd: context.tmp_dir,
        env: [
          {"LEASH_PRECOMPILED_URL", "https://files.leash.invalid/{archive}"},
          {"MIX_ENV", "prod"},
          {"LEASH_PREBUILT", nil} | context.env
        ],
        stderr_to_stdout: true
      )

    assert output =~
             ~r/^\*\* \(Mix\) https:\S+ cannot be downloaded: no connection to files\.leash\.invalid:443 \(.*\); set LEASH_PREBUILT to a copy of #{Sandbox.archive_name()}, or to nothing to build with cargo\.$/m

    refute output =~ "\n    "
  end
end
