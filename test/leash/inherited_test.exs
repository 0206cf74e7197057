defmodule Leash.InheritedTest do
  # What a program has inherited from its starter: the same as from a bare port, whichever process
  # started it.
  use Leash.Test.Case, async: false

  # An ordinary process has none of these.
  @prefix "sh -c 'umask 027; ulimit -Sn 900; ulimit -c 0; echo 7 > /proc/self/oom_score_adj; " <>
            "exec nice -n 3 taskset -c 0 \"$@\"' sh"

  test "umask, limits, nice, affinity, signals, directory, env and descriptors are a port's" do
    vm = start_vm([], prefix: @prefix)
    python = Python.argv("inherited.py", [])
    dir = tmp_dir!()

    said =
      VM.eval(
        vm,
        """
        # After the start of the application, as of the warden.
        File.cd!(#{inspect(dir)})
        System.put_env("LEASH_TEST_LATER", "é")
        System.delete_env("HOME")
        [python | args] = #{inspect(python)}

        #{VM.read_port()}
        options = [:binary, :exit_status]
        bare = read_port.(Port.open({:spawn_executable, python}, [{:args, args} | options]))

        worker = fn options ->
          {:ok, worker} = Leash.Worker.start_link([command: python, args: args, on_output: self()] ++ options)
          monitor = Process.monitor(worker)
          read = fn read, all ->
            receive do
              {:leash_output, ^worker, :stdout, data} -> read.(read, all <> data)
              {:DOWN, ^monitor, _, _, _} -> all
            end
          end

          Process.flag(:trap_exit, true)
          read.(read, "")
        end

        %{
          port: bare,
          system: elem(System.cmd(python, args), 0),
          cmd: elem(Leash.cmd(python, args), 0),
          unmarked: elem(Leash.cmd(python, args, mark: false), 0),
          stream: Leash.stream!(python, args) |> Enum.join(),
          worker: worker.([]),
          worker_unmarked: worker.(mark: false),
          open_port: read_port.(Leash.open_port(python, args, options))
        }
        """,
        30_000
      )

    assert said.port =~ "nice=3\n" and said.port =~ "Umask=\t0027\n"
    assert said.port =~ "Cpus_allowed_list=\t0\n" and said.port =~ "oom_score_adj=7\n"
    assert said.port =~ "limit=Max open files 900 "
    assert said.port =~ "cwd=#{dir}\n" and said.port =~ "variable=LEASH_TEST_LATER=é\n"
    assert said.port =~ "terminal=0\n" and said.port =~ "descriptors=[0, 1, 2]\n"
    refute said.port =~ "variable=HOME="

    for {who, text} <- said do
      marked? = who not in [:port, :system, :unmarked, :worker_unmarked]
      assert {who, rest(text, marked?)} == {who, rest(said.port, marked?)}
    end
  end

  # The mark is a limit. A port's program ignores two signals that the VM's fork server ignores.
  defp rest(text, marked?) do
    for line <- String.split(text, "\n"),
        not (marked? and line =~ "limit=Max file locks"),
        not (line =~ "SigIgn="),
        do: line
  end
end
