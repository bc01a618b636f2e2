from glob import glob

from setuptools import find_packages, setup

package_name = 'selavpr_ros'
matplotlib = 'matplotlib>=3.5'

setup(
    name=package_name,
    version='0.1.0',
    description='Visual place recognition for ROS 2: camera images to loop-closure candidates',
    long_description='See README.md.',
    author='selavpr_ros maintainers',
    maintainer='selavpr_ros maintainers',
    maintainer_email='maintainers@selavpr-ros.invalid',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=[package_name, f'{package_name}.*']),
    package_data={package_name: ['weights/*', 'evaluation/*.html']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{package_name}']),
        (f'share/{package_name}', ['package.xml']),
        (f'share/{package_name}/config', sorted(glob('config/*'))),
        (f'share/{package_name}/integrations', sorted(glob('integrations/*.py'))),
        (f'share/{package_name}/launch', sorted(glob('launch/*.launch.py'))),
    ],
    entry_points={
        'console_scripts': [
            'example_backend = selavpr_ros.ros.example_backend:main',
            'vpr = selavpr_ros.cli.main:main',
            'vpr_node = selavpr_ros.ros.vpr_node:main',
        ],
    },
    # What the node and the verbs for maps need. The simulation needs nothing else.
    # rclpy and the messages are not here: they come from a ROS installation, or from
    # scripts/ros_wheels.txt. torchvision has no line of its own: timm asks for it, and pip then
    # takes the build that fits torch.
    install_requires=[
        'faiss-cpu>=1.8',
        'numpy>=1.21',
        'opencv-python-headless>=4.5',
        'pillow>=9.0',
        'pyyaml',
        # rosbags brings the next two along; files that a crash left are unpacked with them.
        'rosbags>=0.11.7',
        'backports.zstd; python_version < "3.14"',
        'lz4',
        'safetensors>=0.4',
        'timm>=1.0.9',
        'torch>=2.6',
        'tqdm',
    ],
    extras_require={
        # The example of a back-end: factor graphs.
        'backend': [
            matplotlib, 'gtsam>=4.3; python_version >= "3.11"',
            # The last one for Python 3.10 crashes with numpy 2.
            'gtsam==4.2; python_version < "3.11"', 'numpy<2; python_version < "3.11"'],
        # The site of docs/.
        'docs': ['mkdocs>=1.6,<2', 'mkdocs-material>=9.6,<10'],
        # Reports, with pictures: evaluate, replay, compare, demo.
        'evaluation': ['jinja2>=3.0', matplotlib],
        # A shared map in Milvus; python-dotenv because pymilvus imports what it does not ask for.
        'milvus': ['milvus-lite>=3.2.2,<4', 'pymilvus>=3.0.2,<4', 'python-dotenv>=1.2.4'],
        'test': ['import-linter>=2.0', 'mypy', 'pytest', 'pytest-rerunfailures', 'pytest-xdist',
                 'ruff', 'scikit-learn>=1.3', 'types-PyYAML'],
        'train': [matplotlib, 'pytorch-metric-learning>=2.4', 'tensorboard>=2.14'],
    },
    zip_safe=False,
)
