defmodule Leash.Probe.ReadinessTest do
  use Leash.Test.Case, async: false

  alias Leash.OptionsError
  alias Leash.Test.Ports
  alias Leash.Probe.HTTP

  setup do
    nothing_is_listed_after()
    %{decoy: start_decoy("lives beside them"), port: Ports.free()}
  end

  defp start(line, options) do
    carrier = new_carrier()
    {carrier, Worker.start_link(command({:sh, line}, carrier) ++ options)}
  end

  describe "HTTP" do
    test "is ready with the first 200, and not before", %{port: port, decoy: decoy} do
      {carrier, {:ok, worker}} = start(Ports.http(port, [:after, 3]), ready: {:http, port})
      # The program counts its requests, and got three before.
      assert HTTP.status(elem(HTTP.parse(port), 1), 1_000) == {:ok, 200}
      assert {:ok, _} = Worker.stop(worker)
      assert_gone(carrier)
      assert_unharmed(decoy)
    end

    for {title, host} <- [
          {"a path", "127.0.0.1"},
          {"an address", "127.0.0.1"},
          {"a name", "localhost"},
          {"an address of version 6", "[::1]"}
        ] do
      test "asks for #{title}", %{port: port} do
        line = Ports.http(port, [:path, "/up?deep=1", unquote(host)])

        {_carrier, {:ok, worker}} =
          start(line, ready: {:http, target(unquote(title), unquote(host), port)})

        assert {:ok, _} = Worker.stop(worker)
      end
    end

    defp target("a path", _host, port), do: {port, "/up?deep=1"}
    defp target(_url, host, port), do: "http://#{host}:#{port}/up?deep=1"

    test "looks past informational answers", %{port: port} do
      {_carrier, {:ok, worker}} = start(Ports.http(port, [:continues]), ready: {:http, port})
      assert {:ok, _} = Worker.stop(worker)
    end

    for {title, words} <- [
          {"a redirect", [:status, 301]},
          {"what is no HTTP", [:garbage]},
          {"silence", [:hangs_after, 0]}
        ] do
      test "is not ready by #{title}, and the tree is ended", %{port: port, decoy: decoy} do
        line = Ports.http(port, unquote(words))
        options = [ready: {:http, port}, ready_timeout: 800]
        assert {carrier, {:error, :ready_timeout}} = start(line, options)
        assert_gone(carrier)
        assert_unharmed(decoy)
      end
    end

    for {family, address, targets} <- [
          {:inet, {127, 0, 0, 1}, ["port", "path", "localhost"]},
          {:inet6, {0, 0, 0, 0, 0, 0, 0, 1}, ["localhost", "[::1]"]}
        ] do
      @tag :slow
      test "a port that another server answers is refused before a start (#{family})", %{
        port: port
      } do
        refuses(port, unquote(family), unquote(Macro.escape(address)), unquote(targets))
      end
    end

    defp refuses(port, family, address, targets) do
      {:ok, listener} = :gen_tcp.listen(port, [family, ip: address])

      for target <- Enum.map(targets, &asked(&1, port)) do
        assert {carrier, {:error, {:port_in_use, ^port}}} =
                 start("sleep 60", ready: {:http, target})

        assert Carrier.members(carrier) == []
      end

      :gen_tcp.close(listener)
    end

    defp asked("port", port), do: port
    defp asked("path", port), do: {port, "/x"}
    defp asked(host, port), do: "http://#{host}:#{port}/"

    for {family, address, argument} <- [
          {:inet, {127, 0, 0, 1}, "127.0.0.1"},
          {:inet6, {0, 0, 0, 0, 0, 0, 0, 1}, "[::1]"}
        ] do
      test "a port is asked for on the loopback of #{family}", %{port: port} do
        check = [check: {:tcp, port}, every: 10, failures: 1]

        {_carrier, {:ok, worker}} =
          start(Ports.http(port, [:path, "/", unquote(argument)]),
            ready: {:tcp, port},
            health: check
          )

        assert {:ok, _} = Worker.stop(worker)

        {:ok, listener} =
          :gen_tcp.listen(port, [unquote(family), ip: unquote(Macro.escape(address))])

        for ready <- [{:tcp, port}, {:http, port}],
            do: assert({_, {:error, {:port_in_use, ^port}}} = start("sleep 60", ready: ready))

        :gen_tcp.close(listener)
      end
    end

    test "targets that are none are refused" do
      for target <- [
            0,
            65_536,
            "8080",
            {8080, "health"},
            {8080, "/a b"},
            {8080, "/a\r\nX: y"},
            "https://localhost/",
            "http://",
            "http://user:secret@localhost/",
            "http://localhost/#part",
            "http://localhost:0/"
          ] do
        options = [command: "sleep", args: ["60"], ready: {:http, target}]
        assert %OptionsError{key: :ready} = error = catch_error(Worker.start_link(options))
        assert Exception.message(error) =~ "{:http, target} (a port, {port, \"/path\"}"
      end
    end
  end

  describe "a line of stdout" do
    test "of bytes that are no UTF-8 costs a regex of Unicode nothing", %{decoy: decoy} do
      for {line, regex} <- [
            {~S"printf 'caf\351\n'; sleep 0.1; echo ready", ~r/^ready/u},
            {~S"printf '\342\234'; sleep 0.1; printf '\223 Ready\n'", ~r/✓ Ready/u}
          ] do
        {carrier, {:ok, worker}} =
          start(line <> "; read x; echo more; exec sleep 60",
            ready: regex,
            stdin: :pipe,
            on_output: self()
          )

        # The pipe is read as before.
        assert :ok = Worker.write(worker, "go\n")
        assert await_output(worker, "") =~ "more"
        assert {:ok, _} = Worker.stop(worker)
        assert_gone(carrier)
      end

      assert_unharmed(decoy)
    end

    defp await_output(worker, text) do
      if text =~ "more" do
        text
      else
        assert_receive {:leash_output, ^worker, :stdout, data}, 5_000
        await_output(worker, text <> data)
      end
    end
  end

  describe "a function" do
    test "is asked until it says yes, of what runs", %{decoy: decoy} do
      test = self()
      answers = :counters.new(1, [])

      ready = fn info ->
        :counters.add(answers, 1, 1)
        send(test, info)
        # Neither `true`, `:ok` nor `{:ok, term}`, and mistakes while the program is not up.
        Enum.at(
          [false, nil, :error, {:error, 1}, :raise, :throw, {:ok, 1}],
          :counters.get(answers, 1) - 1
        )
        |> case do
          :raise -> raise "not yet"
          :throw -> throw(:not_yet)
          other -> other
        end
      end

      {carrier, {:ok, worker}} = start("sleep 60", ready: ready)
      assert :counters.get(answers, 1) == 7
      info = Worker.info(worker)
      assert_received ^info
      assert {:ok, _} = Worker.stop(worker)
      assert_gone(carrier)
      assert_unharmed(decoy)
    end

    test "without an argument is asked, too" do
      {_carrier, {:ok, worker}} = start("sleep 60", ready: fn -> true end)
      assert {:ok, _} = Worker.stop(worker)
    end

    test "that hangs is waited for as long as given, and ends with the worker", %{decoy: decoy} do
      test = self()

      ready = fn ->
        send(test, {:asked_in, self()})
        receive do: (:never -> true)
      end

      assert {carrier, {:error, :ready_timeout}} =
               start("sleep 60", ready: ready, ready_timeout: 300)

      assert_received {:asked_in, pid}
      assert_eventually(fn -> not Process.alive?(pid) end)
      assert_gone(carrier)
      assert_unharmed(decoy)
    end

    test "gives the program the time to end by itself" do
      assert {carrier, {:error, {:exited, %Exit{status: 3}}}} =
               start("sleep 0.2; exit 3", ready: fn -> false end)

      assert_gone(carrier)
    end

    test "of another arity is refused" do
      for ready <- [fn _, _ -> true end, {Kernel, :is_nil, [nil]}, {:udp, 1}] do
        options = [command: "sleep", args: ["60"], ready: ready]
        assert %OptionsError{key: :ready, value: ^ready} = catch_error(Worker.start_link(options))
      end
    end
  end
end
