defmodule Leash.Build.DependencyTest do
  # Serial: Mix in other VMs takes both cores, and tests that measure times run beside async ones.
  use ExUnit.Case, async: false

  @moduletag :slow

  alias Leash.Build.Sandbox

  @moduletag :build
  @moduletag timeout: 240_000

  # Starts a worker, reads its answer and stops it.
  @code """
  defmodule Kennel do
    def walk do
      {:ok, _apps} = Application.ensure_all_started(:kennel)
      me = self()

      {:ok, worker} =
        Leash.Worker.start_link(
          command: "sh",
          args: ["-c", "echo bow wow; exec sleep 60"],
          on_output: me
        )

      receive do
        {:leash_output, ^worker, :stdout, output} -> IO.write(["heard: ", output])
      after
        10_000 -> raise "no output"
      end

      {:ok, %Leash.Exit{}} = Leash.Worker.stop(worker)
      IO.puts("gone: " <> Application.app_dir(:leash, "priv"))
    end
  end
  """

  setup_all do
    directory = Path.join(System.tmp_dir!(), Leash.Test.Name.of_suite("leash-dependency"))
    File.rm_rf!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)
    Sandbox.dependant!(directory, @code)

    env = [
      {"LEASH_PREBUILT", Sandbox.artefacts()},
      {"LEASH_RUN_DIR", Path.join(directory, "runs")}
    ]

    output = Sandbox.mix!(directory, ["compile"], env)
    %{directory: directory, env: env, output: output}
  end

  test "an application that depends on Leash compiles it and runs a worker", context do
    assert context.output =~ "Generated leash app"
    refute context.output =~ ~r/warning/i
    output = Sandbox.mix!(context.directory, ["run", "-e", "Kennel.walk()"], context.env)
    assert output =~ "heard: bow wow"
    assert output =~ "gone: #{context.directory}/_build/prod/lib/leash/priv"
  end

  test "compiling the application again compiles nothing", context do
    # Without cargo, and without the directory of the artefacts: Mix looks for nothing if no
    # source changed.
    assert Sandbox.mix!(context.directory, ["compile"], context.env) == ""
  end

  test "a release carries real, executable files and runs a worker without Mix", context do
    Sandbox.mix!(context.directory, ["release", "--quiet", "--overwrite"], context.env)
    release = Path.join(context.directory, "_build/prod/rel/kennel")
    assert [priv] = Path.wildcard(Path.join(release, "lib/leash-*/priv"))

    for name <- ~w(leash_nif.so leash-shim) do
      assert %File.Stat{type: :regular, mode: mode} = File.lstat!(Path.join(priv, name))
      assert Bitwise.band(mode, 0o555) == 0o555
    end

    {output, status} =
      System.cmd(Path.join(release, "bin/kennel"), ["eval", "Kennel.walk()"],
        env: context.env ++ [{"LC_ALL", "C.UTF-8"}],
        stderr_to_stdout: true
      )

    assert {status, output} == {0, "heard: bow wow\ngone: #{priv}\n"}
  end
end
