defmodule Leash.EnvTest do
  # An empty variable differs from an unset one, wherever a program is started.
  use Leash.Test.Case, async: false

  @line "echo ${LEASH_TEST_E-unset}.${LEASH_TEST_N-unset}.${LEASH_TEST_S-unset}"
  @env %{"LEASH_TEST_E" => "", "LEASH_TEST_N" => nil, "LEASH_TEST_S" => "set"}

  setup do
    System.put_env("LEASH_TEST_E", "inherited")
    System.put_env("LEASH_TEST_N", "inherited")

    on_exit(fn ->
      System.delete_env("LEASH_TEST_E")
      System.delete_env("LEASH_TEST_N")
    end)

    nothing_is_listed_after()
  end

  test "cmd, streams, a worker and a port" do
    expected = ".unset.set\n"
    assert Leash.cmd("sh", ["-c", @line], env: @env) == {expected, 0}
    assert Leash.cmd("sh", ["-c", @line], env: Map.to_list(@env)) == {expected, 0}
    assert Leash.cmd("sh", ["-c", @line], env: @env, use_stdio: true) == {expected, 0}
    assert Leash.stream!("sh", ["-c", @line], env: @env) |> Enum.join() == expected

    {:ok, worker} = Worker.start_link(shell: @line, env: @env, on_output: self())
    assert_receive {:leash_output, ^worker, :stdout, ^expected}, 10_000

    for env <- [@env, charlists(nil), charlists(false)] do
      port = Leash.open_port("sh", ["-c", @line], [:binary, env: env])
      assert_receive {^port, {:data, ^expected}}, 10_000
    end
  end

  # A path of files that were named in another encoding is such a value. The longer value does not
  # fit the first buffer.
  @tag :slow
  test "bytes that are no text arrive as they are, as from a port" do
    for locale <- ["C.UTF-8", "C"], length <- [1, 3_000] do
      raw = "printf 'a\\377\\303\\251'; head -c #{length} /dev/zero | tr '\\0' x"

      line = ~s|LEASH_TEST_RAW=$(#{raw}) LC_ALL=#{locale} exec "$@"|
      vm = start_vm([], prefix: Python.quote_all(["sh", "-c", line, "sh"]))

      code = """
      # Whatever the encoding makes of it.
      true = :os.putenv([?L, ?E, ?A, ?S, ?H, ?_, ?T, ?E, ?S, ?T, ?_, 233], [233])
      env = System.find_executable("env")
      port = Port.open({:spawn_executable, env}, [:binary, :exit_status])
      #{VM.read_port()}
      own = fn text -> for "LEASH_TEST_" <> rest <- String.split(text, "\n"), do: Base.encode16(rest) end
      {own.(read_port.(port)), own.(elem(Leash.cmd(env, []), 0))}
      """

      {bare, ours} = VM.eval(vm, code)
      assert Enum.any?(bare, &(&1 =~ "3D61FFC3A978"))
      assert length(bare) >= 5
      assert {locale, Enum.sort(ours)} == {locale, Enum.sort(bare)}
    end
  end

  test "the same from Erlang" do
    expected = ".unset.set\n"

    for env <- [@env, charlists(nil), charlists(false)] do
      assert :leash.cmd(~c"sh", [~c"-c", @line], %{env: env}) == {expected, 0}
      {:ok, worker} = :leash.start_link(%{shell: @line, env: env, on_output: self()})
      assert_receive {:leash_output, ^worker, :stdout, ^expected}, 10_000
      port = :leash.open_port(~c"sh", [~c"-c", @line], [:binary, env: env])
      assert_receive {^port, {:data, ^expected}}, 10_000
    end
  end

  defp charlists(unset) do
    for {name, value} <- @env,
        do: {to_charlist(name), if(value, do: to_charlist(value), else: unset)}
  end
end
